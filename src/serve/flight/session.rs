//! Session options: the messages, which arrow-flight has no types for, and what they may say.
//!
//! Nothing is kept between calls. An option can be set to what it is; anything else is answered
//! as invalid rather than accepted without effect. What varies by request travels in headers.

use std::collections::HashMap;

use prost::Message;

use crate::lake::session::{CATALOG, DEFAULT_SCHEMA};

pub(crate) const SET: &str = "SetSessionOptions";
pub(crate) const GET: &str = "GetSessionOptions";
pub(crate) const CLOSE: &str = "CloseSession";

const INVALID_NAME: i32 = 1;
const INVALID_VALUE: i32 = 2;
const CLOSED: i32 = 1;
const FIXED: [(&str, &str); 3] =
    [("catalog", CATALOG), ("schema", DEFAULT_SCHEMA), ("_freshness", "hot")];

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) errors: HashMap<String, OptionError>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OptionError {
    #[prost(int32, tag = "1")]
    pub(crate) value: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CloseSessionResult {
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub(crate) value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    Texts(Texts),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Texts {
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
}

pub(crate) fn set(request: &SetSessionOptionsRequest) -> SetSessionOptionsResult {
    let errors = request.session_options.iter().filter_map(|(name, given)| {
        let fixed = FIXED.iter().find(|(known, _)| known == name);
        let value = match (fixed, &given.value) {
            (None, _) => INVALID_NAME,
            // No value erases the option: back to what it is anyway.
            (Some(_), None) => return None,
            (Some((_, wanted)), Some(OptionValue::Text(text))) if text == wanted => return None,
            (Some(_), Some(_)) => INVALID_VALUE,
        };
        Some((name.clone(), OptionError { value }))
    });
    SetSessionOptionsResult { errors: errors.collect() }
}

pub(crate) fn get() -> GetSessionOptionsResult {
    let options = FIXED.iter().map(|(name, value)| {
        let value = SessionOptionValue { value: Some(OptionValue::Text((*value).to_owned())) };
        ((*name).to_owned(), value)
    });
    GetSessionOptionsResult { session_options: options.collect() }
}

pub(crate) fn close() -> CloseSessionResult {
    CloseSessionResult { status: CLOSED }
}
