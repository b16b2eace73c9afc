//! Layer 3: operating the appliance: where its files may be, and what is wrong with them.

pub mod doctor;
pub mod place;
