//! What is kept of an exchange, under which key, for how long, and how it is sealed.

pub mod assertion;
pub mod entry;
pub mod key;
pub mod memory;
pub(crate) mod recent;
pub mod seal;
