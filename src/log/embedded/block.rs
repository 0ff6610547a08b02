//! How records stand in the store: one block per append and partition.
//!
//! A block is a header and the records back to back. The body is written by the caller of `append`,
//! on its own thread; the writer adds the header, which holds what only the writer knows. Both
//! carry a checksum. Persisted: the layouts of [`PLAIN`] and [`WITH_HEADERS`] must stay stable.

use bytes::{Buf as _, Bytes};

use crate::{
    domain::{Offset, Partition, record::Header as RecordHeader},
    log::LogRecord,
};

/// Version of a block whose records have no headers: key, identity, payload.
const PLAIN: u8 = 1;
/// Version of a block whose records have headers: their number and each with name and value stand
/// in front of the payload.
const WITH_HEADERS: u8 = 2;
const HEADER_LEN: usize = 45;
/// Length of the header that its own checksum covers.
const CHECKED_LEN: usize = HEADER_LEN - 4;
/// Stands for the length of a key or identity that is absent.
const ABSENT: u32 = u32::MAX;

/// Records of one partition on their way into the store.
pub(super) struct Body {
    /// Room for the header, then the records.
    bytes: Vec<u8>,
    version: u8,
    pub(super) count: u32,
}

impl Body {
    /// A body takes records with headers, or those without.
    pub(super) fn new(with_headers: bool) -> Self {
        let version = if with_headers { WITH_HEADERS } else { PLAIN };
        Self { bytes: vec![0; HEADER_LEN], version, count: 0 }
    }

    pub(super) fn has_headers(&self) -> bool {
        self.version == WITH_HEADERS
    }

    pub(super) fn push(
        &mut self,
        key: Option<&[u8]>,
        identity: &[u8],
        headers: &[RecordHeader],
        payload: &[u8],
    ) {
        push_part(&mut self.bytes, key);
        push_part(&mut self.bytes, Some(identity));
        if self.has_headers() {
            let count = u32::try_from(headers.len()).unwrap_or(u32::MAX);
            self.bytes.extend_from_slice(&count.to_be_bytes());
            for (name, value) in headers {
                push_part(&mut self.bytes, Some(name.as_bytes()));
                push_part(&mut self.bytes, value.as_deref());
            }
        }
        push_part(&mut self.bytes, Some(payload));
        self.count += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The checksum of the records, computed by the caller of `append`.
    pub(super) fn finish(mut self) -> Self {
        let crc = crc32fast::hash(&self.bytes[HEADER_LEN..]);
        self.bytes[CHECKED_LEN - 4..CHECKED_LEN].copy_from_slice(&crc.to_be_bytes());
        self
    }

    /// The finished block.
    pub(super) fn seal(self, header: &Header) -> Vec<u8> {
        let mut bytes = self.bytes;
        bytes[0] = self.version;
        bytes[1..9].copy_from_slice(&header.segment.to_be_bytes());
        bytes[9..17].copy_from_slice(&header.base.to_be_bytes());
        bytes[17..25].copy_from_slice(&header.timestamp_us.to_be_bytes());
        bytes[25..33].copy_from_slice(&header.bytes_before.to_be_bytes());
        bytes[33..37].copy_from_slice(&header.count.to_be_bytes());
        let crc = crc32fast::hash(&bytes[..CHECKED_LEN]);
        bytes[CHECKED_LEN..HEADER_LEN].copy_from_slice(&crc.to_be_bytes());
        bytes
    }
}

fn push_part(bytes: &mut Vec<u8>, part: Option<&[u8]>) {
    let len = part.map_or(ABSENT, |part| u32::try_from(part.len()).unwrap_or(ABSENT - 1));
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(part.unwrap_or_default());
}

/// What the writer knows about a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The segment that the block was written for.
    pub(super) segment: u64,
    /// Offset of the first record.
    pub(super) base: Offset,
    /// The log's time of all records of the block.
    pub(super) timestamp_us: i64,
    /// Bytes of the segment before this block.
    pub(super) bytes_before: u64,
    pub(super) count: u32,
}

impl Header {
    /// Offset after the last record.
    pub(super) fn end(&self) -> Offset {
        self.base + i64::from(self.count)
    }
}

/// A block read back, its checksums verified.
pub(super) struct Block {
    pub(super) header: Header,
    version: u8,
    records: Bytes,
}

impl Block {
    pub(super) fn open(mut bytes: Bytes) -> Result<Self, &'static str> {
        if bytes.len() < HEADER_LEN {
            return Err("shorter than its header");
        }
        let mut head = bytes.split_to(HEADER_LEN);
        let header_crc = crc32fast::hash(&head[..CHECKED_LEN]);
        let version = head.get_u8();
        if !matches!(version, PLAIN | WITH_HEADERS) {
            return Err("unknown version");
        }
        let (segment, base, timestamp_us) = (head.get_u64(), head.get_i64(), head.get_i64());
        let (bytes_before, count) = (head.get_u64(), head.get_u32());
        let (body_crc, expected_crc) = (head.get_u32(), head.get_u32());
        if header_crc != expected_crc {
            return Err("the checksum of its header does not match");
        }
        if crc32fast::hash(&bytes) != body_crc {
            return Err("the checksum of its records does not match");
        }
        let header = Header { segment, base, timestamp_us, bytes_before, count };
        Ok(Self { header, version, records: bytes })
    }

    /// The records from offset `from` on, up to `max_bytes` of payload but at least one.
    pub(super) fn read(
        mut self,
        partition: Partition,
        from: Offset,
        max_bytes: usize,
        out: &mut Vec<LogRecord>,
    ) -> Result<usize, &'static str> {
        let mut taken = 0;
        for offset in self.header.base..self.header.end() {
            let key = take_part(&mut self.records)?;
            let identity = take_part(&mut self.records)?;
            let headers = match self.version {
                WITH_HEADERS => take_headers(&mut self.records)?,
                _ => Vec::new(),
            };
            let payload = take_part(&mut self.records)?.ok_or("a record has no payload")?;
            if offset < from {
                continue;
            }
            if taken > 0 && taken + payload.len() > max_bytes {
                break;
            }
            taken += payload.len().max(1);
            let timestamp_us = self.header.timestamp_us;
            let payload = Some(payload);
            out.push(LogRecord {
                partition,
                offset,
                timestamp_us,
                key,
                identity,
                headers,
                payload,
            });
        }
        Ok(taken)
    }
}

const CUT: &str = "a record is cut short";

fn take_headers(bytes: &mut Bytes) -> Result<Vec<RecordHeader>, &'static str> {
    let count = bytes.try_get_u32().map_err(|_| CUT)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = take_part(bytes)?.ok_or("a header has no name")?;
        let name = std::str::from_utf8(&name).map_err(|_| "a header's name is not UTF-8")?;
        headers.push((name.to_owned(), take_part(bytes)?));
    }
    Ok(headers)
}

fn take_part(bytes: &mut Bytes) -> Result<Option<Bytes>, &'static str> {
    let len = bytes.try_get_u32().map_err(|_| CUT)?;
    if len == ABSENT {
        return Ok(None);
    }
    let len = usize::try_from(len).map_err(|_| CUT)?;
    if bytes.len() < len {
        return Err(CUT);
    }
    Ok(Some(bytes.split_to(len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { segment: 3, base: 40, timestamp_us: 1_000, bytes_before: 99, count: 3 };

    fn block() -> Vec<u8> {
        let mut body = Body::new(false);
        body.push(Some(b"k"), b"id-0", &[], b"one");
        body.push(None, b"id-1", &[], b"");
        body.push(Some(b""), b"id-2", &[], b"three");
        body.finish().seal(&HEADER)
    }

    fn headers() -> Vec<RecordHeader> {
        let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        vec![("a".into(), value("1")), ("b".into(), None), ("a".into(), value(""))]
    }

    fn block_with_headers() -> Vec<u8> {
        let mut body = Body::new(true);
        body.push(Some(b"k"), b"id-0", &headers(), b"one");
        body.push(None, b"id-1", &[], b"");
        body.push(None, b"id-2", &headers()[..1], b"three");
        body.finish().seal(&HEADER)
    }

    fn read(from: Offset, max_bytes: usize) -> Vec<LogRecord> {
        let block = Block::open(Bytes::from(block())).expect("block");
        assert_eq!(block.header, HEADER);
        let mut records = Vec::new();
        block.read(7, from, max_bytes, &mut records).expect("records");
        records
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        let expected = LogRecord {
            partition: 7,
            offset: 40,
            timestamp_us: 1_000,
            key: Some(Bytes::from_static(b"k")),
            identity: Some(Bytes::from_static(b"id-0")),
            headers: Vec::new(),
            payload: Some(Bytes::from_static(b"one")),
        };
        let records = read(0, usize::MAX);
        assert_eq!(records[0], expected);
        assert_eq!(records[1].key, None);
        assert_eq!(records[2].key, Some(Bytes::new()));
        assert_eq!(records.len(), 3);
    }

    #[test]
    fn headers_come_back_as_they_went_in() {
        let block = Block::open(Bytes::from(block_with_headers())).expect("block");
        let mut records = Vec::new();
        block.read(7, 0, usize::MAX, &mut records).expect("records");
        let read: Vec<_> = records.into_iter().map(|record| record.headers).collect();
        assert_eq!(read, [headers(), Vec::new(), headers()[..1].to_vec()]);
    }

    /// What is on disks since before there were headers.
    #[test]
    fn a_block_without_headers_has_the_first_layout() {
        let body = b"\0\0\0\x01k\0\0\0\x04id-0\0\0\0\x03one\xff\xff\xff\xff\0\0\0\x04id-1\0\0\0\0\
                     \0\0\0\0\0\0\0\x04id-2\0\0\0\x05three";
        let block = block();
        assert_eq!((block[0], &block[HEADER_LEN..]), (1, &body[..]));
    }

    #[test]
    fn a_read_starts_at_its_offset_and_stops_at_its_budget() {
        let offsets =
            |records: Vec<LogRecord>| records.iter().map(|r| r.offset).collect::<Vec<_>>();
        assert_eq!(offsets(read(41, usize::MAX)), [41, 42]);
        assert_eq!(offsets(read(40, 0)), [40]);
        assert_eq!(offsets(read(40, 4)), [40, 41]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for good in [block(), block_with_headers()] {
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert!(Block::open(Bytes::from(bad)).is_err(), "byte {at}");
            }
            for len in 0..good.len() {
                assert!(Block::open(Bytes::copy_from_slice(&good[..len])).is_err(), "cut at {len}");
            }
        }
    }
}
