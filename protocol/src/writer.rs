//! Writes one frame's object, field by field, in either encoding, into one buffer.

use serde::Serialize;

use crate::body::Body;
use crate::encoding::Encoding;
use crate::msgpack;

/// An object being written. `finish` gives the payload.
#[derive(Debug)]
pub struct ObjectWriter {
    encoding: Encoding,
    out: Vec<u8>,
    /// One entry an open object: where its MessagePack header stands, and how many fields it has so far.
    open: Vec<(usize, u16)>,
}

const IN_MEMORY: &str = "plain values written to memory cannot fail";

impl ObjectWriter {
    #[must_use]
    pub fn new(encoding: Encoding) -> Self {
        let mut writer = ObjectWriter { encoding, out: Vec::with_capacity(192), open: Vec::with_capacity(3) };
        writer.begin();
        writer
    }

    fn begin(&mut self) {
        self.open.push((self.out.len(), 0));
        match self.encoding {
            Encoding::Json => self.out.push(b'{'),
            // The count is patched in when the object ends: always a 16-bit header, so that nothing moves.
            Encoding::Msgpack => self.out.extend_from_slice(&[0xde, 0, 0]),
        }
    }

    fn end(&mut self) {
        let (at, count) = self.open.pop().expect("every end belongs to a begin");
        match self.encoding {
            Encoding::Json => self.out.push(b'}'),
            Encoding::Msgpack => self.out[at + 1..at + 3].copy_from_slice(&count.to_be_bytes()),
        }
    }

    fn key(&mut self, key: &str) {
        let (_, count) = self.open.last_mut().expect("a field belongs to an object");
        *count += 1;
        match self.encoding {
            Encoding::Json => {
                if *count > 1 {
                    self.out.push(b',');
                }
                self.out.push(b'"');
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            Encoding::Msgpack => msgpack::write_str(&mut self.out, key),
        }
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) {
        match self.encoding {
            Encoding::Json => serde_json::to_writer(&mut self.out, value).expect(IN_MEMORY),
            Encoding::Msgpack => {
                let mut serializer = rmp_serde::Serializer::new(&mut self.out).with_struct_map();
                value.serialize(&mut serializer).expect(IN_MEMORY);
            }
        }
    }

    /// A field of any plain value.
    pub fn field<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> &mut Self {
        self.key(key);
        self.value(value);
        self
    }

    /// A field that is left out when there is nothing to say.
    pub fn option<T: Serialize>(&mut self, key: &str, value: Option<&T>) -> &mut Self {
        if let Some(value) = value {
            self.field(key, value);
        }
        self
    }

    /// A field whose value passes through as it is.
    pub fn body(&mut self, key: &str, body: &Body) -> &mut Self {
        self.key(key);
        let bytes = body.to(self.encoding);
        self.out.extend_from_slice(&bytes);
        self
    }

    /// A field that is an object.
    pub fn object(&mut self, key: &str, write: impl FnOnce(&mut Self)) -> &mut Self {
        self.key(key);
        self.begin();
        write(self);
        self.end();
        self
    }

    /// A field that is a list of objects.
    pub fn objects<T>(
        &mut self,
        key: &str,
        items: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.key(key);
        match self.encoding {
            Encoding::Json => self.out.push(b'['),
            Encoding::Msgpack => {
                let count = u32::try_from(items.len()).expect("lists are bounded far below 2^32");
                msgpack::write_array_len(&mut self.out, count);
            }
        }
        for (i, item) in items.enumerate() {
            if i > 0 && self.encoding == Encoding::Json {
                self.out.push(b',');
            }
            self.begin();
            write(self, item);
            self.end();
        }
        if self.encoding == Encoding::Json {
            self.out.push(b']');
        }
        self
    }

    /// The finished payload.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.end();
        self.out
    }

    /// Bytes written so far.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.out.len()
    }
}
