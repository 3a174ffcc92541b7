//! The frames of a trunk: a head of nine bytes (kind, number of streams, length), the payload, then the streams'
//! numbers; all numbers big-endian. The streams come last, so that a frame which is being gathered can get more of them.

use super::Broken;

/// Longest payload. As much as a stream's window, so that none of its bytes are ever split for the frame's sake.
pub(super) const PAYLOAD_MAX: usize = super::WINDOW as usize;

/// Streams that one frame may be for. What is for more leaves in several, and what others say goes between.
pub(super) const STREAMS_MAX: usize = 512;

/// Bytes before the payload.
pub(super) const HEAD: usize = 9;

/// Bytes of a stream's number.
const NUMBER: usize = 4;

/// What a frame is about. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A new stream; the payload says for whom.
    Open = 1,
    /// The stream is taken.
    Accept = 2,
    /// The stream is not taken; the payload is a status. Nothing follows on it.
    Refuse = 3,
    /// Bytes for one stream or several.
    Data = 4,
    /// So many bytes more may be sent; the payload is their number.
    Window = 5,
    /// The sender has no more bytes, and still takes some.
    End = 6,
    /// The sender has no more bytes and takes none. Each side says it once, last of all.
    Close = 7,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        let kinds =
            [Kind::Open, Kind::Accept, Kind::Refuse, Kind::Data, Kind::Window, Kind::End, Kind::Close];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame that has come whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
    streams: &'a [[u8; NUMBER]],
}

impl<'a> Frame<'a> {
    /// The first frame of these bytes, and how many of them it is. `None`: it has not come whole.
    ///
    /// # Errors
    /// When what comes is no frame.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, Broken> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [kind, a, b, c, d, e, f, g, h] = *head;
        let kind = Kind::of(kind).ok_or(Broken("a frame is of no kind"))?;
        let [count, length] = [[a, b, c, d], [e, f, g, h]].map(|number| u32::from_be_bytes(number) as usize);
        let many = if kind == Kind::Data { STREAMS_MAX } else { 1 };
        if !(1..=many).contains(&count) || length > PAYLOAD_MAX {
            return Err(Broken("a frame is out of bounds"));
        }
        let whole = length + count * NUMBER;
        let Some(rest) = rest.get(..whole) else { return Ok(None) };
        let (payload, numbers) = rest.split_at(length);
        let (streams, _) = numbers.as_chunks::<NUMBER>();
        Ok(Some((Frame { kind, payload, streams }, HEAD + whole)))
    }

    /// The streams that it is for; at least one.
    pub(super) fn streams(&self) -> impl ExactSizeIterator<Item = u32> {
        self.streams.iter().map(|number| u32::from_be_bytes(*number))
    }

    /// The one stream that it is for.
    pub(super) fn stream(&self) -> u32 {
        u32::from_be_bytes(self.streams[0])
    }

    /// The number that the payload is.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn number(&self) -> Result<u32, Broken> {
        let bytes = self.payload.try_into().map_err(|_| Broken("a number has four bytes"))?;
        Ok(u32::from_be_bytes(bytes))
    }
}

/// Appends a frame for one stream. The payload is at most [`PAYLOAD_MAX`].
pub(super) fn append(frames: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8]) {
    frames.reserve(HEAD + payload.len() + NUMBER);
    frames.push(kind as u8);
    frames.extend_from_slice(&1_u32.to_be_bytes());
    frames.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    frames.extend_from_slice(payload);
    frames.extend_from_slice(&stream.to_be_bytes());
}

/// Makes the last frame, which begins at `start`, be for one stream more, the `count`th.
pub(super) fn extend(frames: &mut Vec<u8>, start: usize, count: usize, stream: u32) {
    frames.extend_from_slice(&stream.to_be_bytes());
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    frames[start + 1..start + 1 + NUMBER].copy_from_slice(&count.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written_and_only_whole() {
        let mut frames = Vec::new();
        append(&mut frames, Kind::Open, 7, b"ticket");
        let start = frames.len();
        append(&mut frames, Kind::Data, 7, b"hello");
        extend(&mut frames, start, 2, 9);
        append(&mut frames, Kind::Close, u32::MAX, b"");

        let (mut seen, mut rest) = (Vec::new(), &frames[..]);
        while let Some((frame, length)) = Frame::read(rest).unwrap() {
            for part in 0..length {
                assert_eq!(Frame::read(&rest[..part]), Ok(None));
            }
            seen.push((frame.kind, frame.payload.to_vec(), frame.streams().collect::<Vec<_>>()));
            rest = &rest[length..];
        }
        let expected = [
            (Kind::Open, b"ticket".to_vec(), vec![7]),
            (Kind::Data, b"hello".to_vec(), vec![7, 9]),
            (Kind::Close, Vec::new(), vec![u32::MAX]),
        ];
        assert_eq!((seen.as_slice(), rest.len()), (&expected[..], 0));
    }

    #[test]
    fn what_is_no_frame_is_refused_by_its_head() {
        let head = |kind: u8, count: u32, length: u32| {
            [&[kind][..], &count.to_be_bytes(), &length.to_be_bytes()].concat()
        };
        for bad in [
            head(0, 1, 0),
            head(8, 1, 0),
            head(Kind::Data as u8, 0, 1),
            head(Kind::Data as u8, 513, 1),
            head(Kind::Data as u8, 1, 65_537),
            head(Kind::Data as u8, u32::MAX, u32::MAX),
            head(Kind::Close as u8, 2, 0),
        ] {
            assert!(Frame::read(&bad).is_err(), "{bad:?}");
        }
        let mut frames = Vec::new();
        append(&mut frames, Kind::Window, 1, b"abc");
        assert!(Frame::read(&frames).unwrap().unwrap().0.number().is_err());
    }
}
