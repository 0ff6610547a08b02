//! What every part needs and none is about: clock, folders, tasks, telemetry. No domain words here.

mod clock;
pub mod crash;
pub mod folders;
mod stop;
pub mod tasks;
pub mod telemetry;

pub use clock::Clock;
pub use stop::Stop;
