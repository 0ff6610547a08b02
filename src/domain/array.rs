//! A record that holds several events: a JSON array, taken apart without reading the events.

/// A record holds so many events at most.
pub const EVENTS_MAX: usize = 10_000;
const TOO_MANY: &str = "it holds more than 10000 events";

/// The events of a record, as they stand in it; `None` where it is no array, `Err` where it begins
/// as one and is none.
///
/// Only brackets, commas and strings are looked at, so that a bad event costs none of its
/// neighbours. The number of an event is part of its place: what is counted must stay stable.
pub fn events(payload: &[u8]) -> Result<Option<Vec<&[u8]>>, &'static str> {
    let Some(inner) = trimmed(payload).strip_prefix(b"[") else { return Ok(None) };
    let (mut found, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    let (mut in_string, mut is_escaped) = (false, false);
    for (at, byte) in inner.iter().enumerate() {
        if in_string {
            in_string = is_escaped || *byte != b'"';
            is_escaped = !is_escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth > 0 => depth -= 1,
            b'}' => return Err("a brace closes what is not open"),
            b']' | b',' if depth == 0 => {
                let event = trimmed(&inner[start..at]);
                let is_end = *byte == b']';
                if !(is_end && found.is_empty() && event.is_empty()) {
                    found.push(event);
                }
                if found.len() > EVENTS_MAX {
                    return Err(TOO_MANY);
                }
                if is_end {
                    let is_all = at + 1 == inner.len();
                    return if is_all { Ok(Some(found)) } else { Err("something follows it") };
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    Err("it does not end")
}

/// Without JSON's blanks at both ends.
fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\n' | b'\r'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn texts(payload: &str) -> Result<Option<Vec<&str>>, &'static str> {
        let text = |event| std::str::from_utf8(event).expect("text");
        let found = events(payload.as_bytes())?;
        Ok(found.map(|events| events.into_iter().map(text).collect()))
    }

    #[test]
    fn an_array_is_taken_apart_at_its_own_commas() {
        let cases: [(&str, &[&str]); 8] = [
            ("[]", &[]),
            (" [ \n ] ", &[]),
            ("[{\"a\":1}]", &["{\"a\":1}"]),
            ("[ {\"a\":[1,2]} , 7,\"x,]\"]\n", &["{\"a\":[1,2]}", "7", "\"x,]\""]),
            (r#"["\"],", "\\",{"b":"}"}]"#, &[r#""\"],""#, r#""\\""#, r#"{"b":"}"}"#]),
            ("[[1,2],[]]", &["[1,2]", "[]"]),
            // What is wrong with an event is its own affair.
            ("[{\"a\":NaN},{\"a\":1},]", &["{\"a\":NaN}", "{\"a\":1}", ""]),
            ("[{\"a\":1} {\"a\":2},tru]", &["{\"a\":1} {\"a\":2}", "tru"]),
        ];
        for (payload, wanted) in cases {
            assert_eq!(texts(payload), Ok(Some(wanted.to_vec())), "{payload}");
        }
    }

    #[test]
    fn what_is_no_array_is_one_event_or_broken() {
        for payload in ["", " ", "{\"a\":[1]}", "7", "\"[1]\"", "null"] {
            assert_eq!(texts(payload), Ok(None), "{payload}");
        }
        for payload in ["[", "[1", "[{\"a\":1]", "[\"a]", "[1]]", "[1],", "[1}]", "[{]"] {
            assert!(texts(payload).is_err(), "{payload}");
        }
        let many = format!("[{}0]", "0,".repeat(EVENTS_MAX - 1));
        assert_eq!(texts(&many).map(|events| events.map(|e| e.len())), Ok(Some(EVENTS_MAX)));
        assert_eq!(texts(&format!("[{}0]", "0,".repeat(EVENTS_MAX))), Err(TOO_MANY));
        assert!(TOO_MANY.contains(&EVENTS_MAX.to_string()));
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut random = StdRng::seed_from_u64(1);
        let mut whole = 0;
        for _ in 0..20_000 {
            let length = random.random_range(0..12);
            let mut pick = || b"[]{},\"\\ 1"[random.random_range(0..9)];
            let middle: Vec<u8> = (0..length).map(|_| pick()).collect();
            let bytes = [b"[".as_slice(), &middle, b"]"].concat();
            let found = events(&bytes).ok().flatten();
            whole += u32::from(found.is_some());
            if let Ok(values) = serde_json::from_slice::<Vec<serde_json::Value>>(&bytes) {
                let read = |event| serde_json::from_slice(event).expect("a value");
                let found: Vec<serde_json::Value> =
                    found.expect("whole").into_iter().map(read).collect();
                assert_eq!(found, values);
            }
        }
        assert!(whole > 1_000, "{whole}");
    }
}
