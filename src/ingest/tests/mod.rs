mod judging;
mod stopping;
mod streaming;
mod support;
mod unary;
