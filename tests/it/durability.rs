//! What survives: kills, full disks, and the sync before every answer.
