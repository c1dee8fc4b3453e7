//! The time of every server, collected by the master.
