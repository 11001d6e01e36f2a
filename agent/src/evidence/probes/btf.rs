//! A reader of the kernel's own type information (BTF): where a field is in *this* kernel, and what
//! a tracepoint passes. Pure; the format is the kernel's `Documentation/bpf/btf.rst`.

/// Why it could not be read or answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or not of this machine's byte order.
    #[error("it is not BTF of this byte order")]
    Header,
    /// A type reaches beyond the end.
    #[error("it ends within type {0}")]
    Truncated(u32),
    /// A kind that this reader does not know, so it cannot tell where the next type starts.
    #[error("type {0} is of the unknown kind {1}")]
    UnknownKind(u32, u32),
}

const MAGIC: u16 = 0xEB9F;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const FUNC_PROTO: u32 = 13;
/// Anonymous members nested deeper than this are not searched.
const DEPTH_MAX: u32 = 8;

/// Parsed just far enough to find types by name.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type starts in `types`; index = id - 1.
    starts: Vec<u32>,
    /// Of these, the indexes of structs and of typedefs: a tenth of all, and all that is looked for.
    structs: Vec<u32>,
    typedefs: Vec<u32>,
}

/// `struct btf_type`.
#[derive(Clone, Copy, Debug)]
struct Type {
    name: u32,
    info: u32,
    /// `size` or `type`, by kind.
    size_or_target: u32,
    /// Where what follows the header starts.
    extra: usize,
}

impl Type {
    fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }
    fn len(self) -> usize {
        (self.info & 0xffff) as usize
    }
    fn has_bitfields(self) -> bool {
        self.info >> 31 == 1
    }
}

impl<'a> Btf<'a> {
    /// Indexes the types; the vmlinux of a cloud kernel has 60,000 to 130,000.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let word = |at: usize| word(bytes, at).ok_or(BtfError::Header);
        let magic = bytes.get(..2).ok_or(BtfError::Header)?;
        if u16::from_ne_bytes([magic[0], magic[1]]) != MAGIC {
            return Err(BtfError::Header);
        }
        let header = word(4)? as usize;
        let part = |offset: u32, len: u32| {
            let start = header.checked_add(offset as usize)?;
            bytes.get(start..start.checked_add(len as usize)?)
        };
        let types = part(word(8)?, word(12)?).ok_or(BtfError::Header)?;
        let strings = part(word(16)?, word(20)?).ok_or(BtfError::Header)?;
        let mut btf = Self {
            types,
            strings,
            starts: Vec::new(),
            structs: Vec::new(),
            typedefs: Vec::new(),
        };
        let mut at = 0;
        while at < types.len() {
            let id = u32::try_from(btf.starts.len() + 1).unwrap_or(u32::MAX);
            let header = btf.header(at).ok_or(BtfError::Truncated(id))?;
            let extra = extra_len(header).ok_or(BtfError::UnknownKind(id, header.kind()))?;
            match header.kind() {
                STRUCT => btf.structs.push(id - 1),
                TYPEDEF => btf.typedefs.push(id - 1),
                _ => {}
            }
            btf.starts
                .push(u32::try_from(at).map_err(|_| BtfError::Truncated(id))?);
            at = header.extra + extra;
            if at > types.len() {
                return Err(BtfError::Truncated(id));
            }
        }
        Ok(btf)
    }

    /// Offset in bytes of a field, found in anonymous parts too. `None` if there is no such struct,
    /// no such field, or it is a bit field.
    pub fn offset(&self, structure: &str, field: &str) -> Option<u64> {
        let bits = self
            .of(&self.structs)
            .filter(|(_, found)| self.named(found.name, structure))
            .find_map(|(_, found)| self.member_bits(found, field, 0))?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Size of a struct in bytes.
    pub fn size(&self, structure: &str) -> Option<u64> {
        self.of(&self.structs)
            .find(|(_, found)| self.named(found.name, structure))
            .map(|(_, found)| found.size_or_target.into())
    }

    /// What a tracepoint passes: the C names of its arguments' types' targets, such as
    /// `task_struct` for a pointer to one, or the plain type. `None` if the kernel does not tell.
    pub fn tracepoint(&self, name: &str) -> Option<Vec<String>> {
        let name = format!("btf_trace_{name}");
        let (_, typedef) = self
            .of(&self.typedefs)
            .find(|(_, found)| self.named(found.name, &name))?;
        let proto = self.resolve(typedef.size_or_target)?;
        if proto.kind() != FUNC_PROTO {
            return None;
        }
        // The first argument is the attachment's own data, for every tracepoint.
        (1..proto.len())
            .map(|index| {
                let target = word(self.types, proto.extra + index * 8 + 4)?;
                let target = self.resolve(target)?;
                Some(self.name(target.name).to_owned())
            })
            .collect()
    }

    /// The id of a tracepoint's type, by which a program is attached to it.
    pub fn tracepoint_id(&self, name: &str) -> Option<u32> {
        let name = format!("btf_trace_{name}");
        self.of(&self.typedefs)
            .find(|(_, found)| self.named(found.name, &name))
            .map(|(id, _)| id)
    }

    fn member_bits(&self, found: Type, field: &str, depth: u32) -> Option<u64> {
        if depth > DEPTH_MAX {
            return None;
        }
        for index in 0..found.len() {
            let at = found.extra + index * 12;
            let name = word(self.types, at)?;
            let target = word(self.types, at + 4)?;
            let raw = word(self.types, at + 8)?;
            let (offset, width) = if found.has_bitfields() {
                (raw & 0x00ff_ffff, raw >> 24)
            } else {
                (raw, 0)
            };
            if self.named(name, field) {
                return (width == 0).then_some(u64::from(offset));
            }
            if name == 0
                && let Some(inner) = self.resolve(target)
                && matches!(inner.kind(), STRUCT | UNION)
                && let Some(bits) = self.member_bits(inner, field, depth + 1)
            {
                return Some(u64::from(offset) + bits);
            }
        }
        None
    }

    /// Follows pointers, typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..32 {
            let found = self.by_id(id)?;
            match found.kind() {
                // Pointer, typedef, volatile, const, restrict, type tag.
                2 | TYPEDEF | 9 | 10 | 11 | 18 => id = found.size_or_target,
                _ => return Some(found),
            }
        }
        None
    }

    /// Ids and types of some indexes.
    fn of<'s>(&'s self, indexes: &'s [u32]) -> impl Iterator<Item = (u32, Type)> + 's {
        indexes
            .iter()
            .filter_map(|index| Some((index + 1, self.by_id(index + 1)?)))
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        let start = self.starts.get(id.checked_sub(1)? as usize)?;
        self.header(*start as usize)
    }

    fn header(&self, at: usize) -> Option<Type> {
        Some(Type {
            name: word(self.types, at)?,
            info: word(self.types, at + 4)?,
            size_or_target: word(self.types, at + 8)?,
            extra: at + 12,
        })
    }

    fn named(&self, offset: u32, name: &str) -> bool {
        self.strings
            .get(offset as usize..)
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    fn name(&self, offset: u32) -> &str {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
        std::str::from_utf8(&rest[..end]).unwrap_or_default()
    }
}

/// BTF in which the given tracepoints' types have the ids that the kernel knows them by, and nothing
/// else does: what a loader of programs needs to know, without its reading 100,000 types for it.
pub fn only_tracepoints(ids: &[(&str, u32)]) -> Vec<u8> {
    /// A pointer to nothing: the shortest type there is.
    const FILLER: [u32; 3] = [0, 2 << 24, 0];
    let mut strings = vec![0];
    let last = ids.iter().map(|(_, id)| *id).max().unwrap_or(0);
    let mut types = FILLER.repeat(last as usize);
    for (name, id) in ids {
        let offset = u32::try_from(strings.len()).unwrap_or_default();
        strings.extend(format!("btf_trace_{name}\0").bytes());
        if let Some(place) = (*id as usize).checked_sub(1) {
            types[place * 3..place * 3 + 3].copy_from_slice(&[offset, TYPEDEF << 24, 1]);
        }
    }
    let len = |len: usize| u32::try_from(len).unwrap_or_default();
    let (types_len, strings_len) = (len(types.len() * 4), len(strings.len()));
    let mut bytes = MAGIC.to_ne_bytes().to_vec();
    bytes.extend([1, 0]);
    let header = [24, 0, types_len, types_len, strings_len];
    bytes.extend(
        header
            .iter()
            .chain(&types)
            .flat_map(|word| word.to_ne_bytes()),
    );
    bytes.extend(strings);
    bytes
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Bytes that follow a type's header.
fn extra_len(header: Type) -> Option<usize> {
    Some(match header.kind() {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        STRUCT | UNION => header.len() * 12,
        // ENUM, FUNC_PROTO
        6 | FUNC_PROTO => header.len() * 8,
        // DATASEC, ENUM64
        15 | 19 => header.len() * 12,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Btf, BtfError, only_tracepoints};

    /// Builds BTF by hand: `struct outer { int a; union { u16 pad; struct inner { … } }; }`.
    struct Builder {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Builder {
        fn new() -> Self {
            Self {
                types: Vec::new(),
                strings: vec![0],
            }
        }
        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len();
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            u32::try_from(at).unwrap()
        }
        fn words(&mut self, words: &[u32]) {
            self.types
                .extend(words.iter().flat_map(|w| w.to_ne_bytes()));
        }
        fn of(&mut self, name: &str, kind: u32, len: u32, size_or_target: u32, extra: &[u32]) {
            let name = self.name(name);
            self.words(&[name, kind << 24 | len, size_or_target]);
            self.words(extra);
        }
        fn finish(self) -> Vec<u8> {
            let mut out = vec![0x9f, 0xeb, 1, 0];
            let len = |part: &[u8]| u32::try_from(part.len()).unwrap();
            let (types, strings) = (len(&self.types), len(&self.strings));
            for word in [24, 0, types, types, strings] {
                out.extend(u32::to_ne_bytes(word));
            }
            out.extend(self.types);
            out.extend(self.strings);
            out
        }
    }

    fn sample() -> Vec<u8> {
        let mut b = Builder::new();
        b.of("int", 1, 0, 4, &[32]); // 1
        let (far, wide) = (b.name("far"), b.name("wide"));
        // 2: anonymous struct { int wide; int far; }
        b.of("", 4, 2, 8, &[wide, 1, 0, far, 1, 32]);
        // 3: anonymous union holding it
        b.of("", 5, 1, 8, &[0, 2, 0]);
        let a = b.name("a");
        // 4: the outer struct: a at 0, the union at byte 8
        b.of("outer", 4, 2, 16, &[a, 1, 0, 0, 3, 64]);
        b.of("", 2, 0, 4, &[]); // 5: pointer to outer
        b.of("", 2, 0, 0, &[]); // 6: void *
        b.of("", 13, 3, 0, &[0, 6, 0, 5, 0, 1]); // 7: (void *, outer *, int)
        b.of("", 2, 0, 7, &[]); // 8: pointer to it
        b.of("btf_trace_thing", 8, 0, 8, &[]); // 9
        b.finish()
    }

    #[test]
    fn a_field_is_found_through_anonymous_parts() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("outer", "a"), Some(0));
        assert_eq!(btf.offset("outer", "wide"), Some(8));
        assert_eq!(btf.offset("outer", "far"), Some(12));
        assert_eq!(btf.offset("outer", "fa"), None);
        assert_eq!(btf.offset("oute", "a"), None);
        assert_eq!((btf.size("outer"), btf.size("oute")), (Some(16), None));
    }

    #[test]
    fn a_tracepoint_tells_what_it_passes() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(
            btf.tracepoint("thing"),
            Some(vec!["outer".to_owned(), "int".to_owned()])
        );
        assert_eq!(btf.tracepoint("thin"), None);
        assert_eq!(btf.tracepoint_id("thing"), Some(9));
        assert_eq!(btf.tracepoint_id("thin"), None);
    }

    #[test]
    fn a_loader_finds_a_tracepoint_in_the_short_form_under_the_kernels_id() {
        let bytes = only_tracepoints(&[("late", 70_000), ("early", 3)]);
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.tracepoint_id("early"), Some(3));
        assert_eq!(btf.tracepoint_id("late"), Some(70_000));
        // The loader's own reader takes it, too; that it finds them there is what attaching shows.
        assert!(aya::Btf::parse(&bytes, aya::Endianness::default()).is_ok());
        assert!(Btf::parse(&only_tracepoints(&[])).is_ok());
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let bytes = sample();
        assert_eq!(Btf::parse(&[]).unwrap_err(), BtfError::Header);
        assert_eq!(Btf::parse(b"ELF").unwrap_err(), BtfError::Header);
        for cut in 0..bytes.len() {
            drop(Btf::parse(&bytes[..cut]).map(|btf| btf.offset("outer", "far")));
        }
        for at in 24..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] = 0xff;
            drop(Btf::parse(&bad).map(|btf| (btf.offset("outer", "far"), btf.tracepoint("thing"))));
        }
    }
}
