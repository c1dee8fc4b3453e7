//! Which function an address belongs to. Addresses are taken to the files they are mapped from while they are: a library
//! may be gone before the profile ends.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{File, Metadata},
    io::{self, Read},
    path::{Path, PathBuf},
};

use object::{Object, ObjectSegment, ObjectSymbol, ReadCache, SymbolKind};
use procfs::process::{MMPermissions, MMapPath, Process};

/// What is read of a file that tells of code made at run time; a large program's has some MB.
const LARGEST_MAP: u64 = 64 << 20;

/// A place in the code of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    file: usize,
    offset: u64,
}

/// The code of one process.
pub(super) struct Symbols {
    process: Process,
    /// By address.
    mappings: Vec<Mapping>,
    files: Vec<Code>,
    known: HashMap<(i32, i32, u64, String), usize>,
    /// The mappings are as of this round.
    fresh: bool,
}

struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    file: usize,
}

struct Code {
    /// What stands for functions without a name.
    label: String,
    source: Source,
}

/// Where names come from.
enum Source {
    /// Code that was made at run time, told of in the file that `perf` reads, if the program writes one
    /// (`node --perf-basic-prof`).
    MadeAtRunTime(PathBuf),
    /// Opened at once: it may be removed.
    File(File),
    Read(Table),
    Nothing,
}

/// The functions of a file.
#[derive(Default)]
struct Table {
    /// Offset in the file, size, address.
    segments: Vec<(u64, u64, u64)>,
    /// Address, size and name, by address.
    functions: Vec<(u64, u64, String)>,
}

impl Symbols {
    pub(super) fn of(pid: u32) -> io::Result<Symbols> {
        let process = Process::new(i32::try_from(pid).map_err(io::Error::other)?).map_err(io::Error::other)?;
        let mut symbols =
            Symbols { process, mappings: Vec::new(), files: Vec::new(), known: HashMap::new(), fresh: false };
        symbols.read_mappings();
        Ok(symbols)
    }

    /// A round is over: an address that nothing is mapped to may be one of a library that is new.
    pub(super) fn forget_misses(&mut self) {
        self.fresh = false;
    }

    /// Where an address is in the files; `None` if it is no code.
    pub(super) fn locate(&mut self, address: u64) -> Option<Frame> {
        self.look_up(address).or_else(|| {
            if self.fresh {
                return None;
            }
            self.read_mappings();
            self.look_up(address)
        })
    }

    fn look_up(&self, address: u64) -> Option<Frame> {
        let after = self.mappings.partition_point(|mapping| mapping.start <= address);
        let mapping = self.mappings.get(after.checked_sub(1)?).filter(|mapping| address < mapping.end)?;
        Some(Frame { file: mapping.file, offset: address - mapping.start + mapping.offset })
    }

    fn read_mappings(&mut self) {
        self.fresh = true;
        let Ok(maps) = self.process.maps() else { return };
        self.mappings.clear();
        for map in maps.into_iter().filter(|map| map.perms.contains(MMPermissions::EXECUTE)) {
            let name = match &map.pathname {
                MMapPath::Path(path) => path.to_string_lossy().into_owned(),
                MMapPath::Vdso | MMapPath::Vsyscall => "vdso".to_owned(),
                _ => String::new(),
            };
            // Code without a file stays at its address.
            let offset = if name.is_empty() { map.address.0 } else { map.offset };
            let file = self.file(map.dev, map.inode, name);
            self.mappings.push(Mapping { start: map.address.0, end: map.address.1, offset, file });
        }
        self.mappings.sort_unstable_by_key(|mapping| mapping.start);
    }

    fn file(&mut self, (major, minor): (i32, i32), inode: u64, name: String) -> usize {
        let (files, pid) = (&mut self.files, self.process.pid());
        *self.known.entry((major, minor, inode, name)).or_insert_with_key(|(.., name)| {
            // As the process sees it: it may have another root. Devices are not opened: that may do something.
            let path = |name: &str| PathBuf::from(format!("/proc/{pid}/root{name}"));
            let open =
                |path: PathBuf| path.metadata().ok().filter(Metadata::is_file).and_then(|_| File::open(path).ok());
            let (label, source) = match Path::new(name).file_name() {
                Some(stem) => {
                    (format!("[{}]", stem.to_string_lossy()), open(path(name)).map_or(Source::Nothing, Source::File))
                }
                None => ("[made at run time]".to_owned(), Source::MadeAtRunTime(path(&format!("/tmp/perf-{pid}.map")))),
            };
            files.push(Code { label, source });
            files.len() - 1
        })
    }

    /// The name of the function.
    pub(super) fn name(&mut self, frame: Frame) -> String {
        let Some(code) = self.files.get_mut(frame.file) else { return String::new() };
        let table = match std::mem::replace(&mut code.source, Source::Nothing) {
            Source::Read(table) => Some(table),
            Source::File(file) => Table::read(file),
            Source::MadeAtRunTime(path) => Table::read_map(&path),
            Source::Nothing => None,
        };
        let name = table.as_ref().and_then(|table| table.find(frame.offset)).map(readable);
        code.source = table.map_or(Source::Nothing, Source::Read);
        name.unwrap_or_else(|| code.label.clone())
    }
}

/// The name as it was written: in Rust, in C++, or else as it is.
fn readable(name: &str) -> String {
    match rustc_demangle::try_demangle(name) {
        Ok(rust) => format!("{rust:#}"),
        Err(_) => cpp_demangle::Symbol::new(name)
            .ok()
            .and_then(|symbol| symbol.demangle().ok())
            .unwrap_or_else(|| name.to_owned()),
    }
}

impl Table {
    fn read(file: File) -> Option<Table> {
        let cache = ReadCache::new(file);
        let object = object::File::parse(&cache).ok()?;
        let segments = object.segments().map(|segment| {
            let (offset, size) = segment.file_range();
            (offset, size, segment.address())
        });
        let segments = segments.collect();
        let functions = object.symbols().chain(object.dynamic_symbols());
        let functions = functions.filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.address() != 0);
        let mut functions: Vec<_> = functions
            .filter_map(|symbol| Some((symbol.address(), symbol.size(), symbol.name().ok()?.to_owned())))
            .collect();
        functions.sort_unstable();
        Some(Table { segments, functions })
    }

    /// Lines of `ADDRESS SIZE NAME`, in hexadecimal. What was made later at an address goes before what was there.
    fn read_map(path: &Path) -> Option<Table> {
        let mut text = String::new();
        let file = path.symlink_metadata().ok().filter(Metadata::is_file).and_then(|_| File::open(path).ok())?;
        file.take(LARGEST_MAP).read_to_string(&mut text).ok()?;
        let mut functions = BTreeMap::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ' ');
            let mut number = || parts.next().and_then(|part| u64::from_str_radix(part, 16).ok());
            if let (Some(address), Some(size), Some(name)) = (number(), number(), parts.next()) {
                functions.insert(address, (size, name.to_owned()));
            }
        }
        let functions = functions.into_iter().map(|(address, (size, name))| (address, size, name)).collect();
        Some(Table { segments: vec![(0, u64::MAX, 0)], functions })
    }

    fn find(&self, offset: u64) -> Option<&str> {
        let within = |(start, size, _): &&(u64, u64, u64)| (*start..start.saturating_add(*size)).contains(&offset);
        let (start, _, base) = self.segments.iter().find(within)?;
        let address = (offset - start).checked_add(*base)?;
        let after = self.functions.partition_point(|(start, ..)| *start <= address);
        let (start, size, name) = self.functions.get(after.checked_sub(1)?)?;
        // Written by hand in assembler, functions have no size.
        (*size == 0 || address - start < *size).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_function_of_this_process_is_found_by_its_address() {
        let mut symbols = Symbols::of(std::process::id()).unwrap();
        let address = Sampled::function as fn() as usize as u64;
        let frame = symbols.locate(address).unwrap();
        assert!(symbols.name(frame).ends_with("Sampled::function"), "{}", symbols.name(frame));
        assert_eq!(symbols.locate(8), None, "nothing is mapped there");
    }

    struct Sampled;

    impl Sampled {
        #[inline(never)]
        fn function() {
            std::hint::black_box(7);
        }
    }

    #[test]
    fn names_are_written_as_in_the_language_they_come_from() {
        assert_eq!(readable("_ZN4node5StartEiPPc"), "node::Start(int, char**)");
        assert_eq!(readable("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(readable("main"), "main");
    }

    #[test]
    fn code_made_at_run_time_is_named_by_the_newest_line() {
        let mut map = tempfile::NamedTempFile::new().unwrap();
        map.write_all(b"1000 20 JS:~old a.js:1\nodd\n1000 20 JS:*hot a.js:1\n2000 zz x\nfffffffffffffff0 ff edge\n")
            .unwrap();
        let table = Table::read_map(map.path()).unwrap();
        assert_eq!(table.find(0x101f), Some("JS:*hot a.js:1"));
        assert_eq!((table.find(0x1020), table.find(0xfff)), (None, None));
        assert_eq!(table.find(0xffff_ffff_ffff_fffa), Some("edge"));
    }
}
