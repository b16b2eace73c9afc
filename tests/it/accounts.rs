//! Users, devices, invitations, sessions, roles.
