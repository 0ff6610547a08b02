//! The serve role over real connections, on a lake that is only in memory.
