//! What every part needs and none is about: clock, tasks, telemetry. No domain words here.

mod clock;
pub mod crash;
mod stop;
pub mod tasks;
pub mod telemetry;

pub use clock::Clock;
pub use stop::Stop;
