//! Which function an address belongs to. Addresses are taken to the files they are mapped from while they are: a library
//! may be gone before the profile ends.

use std::{collections::HashMap, fs::File, io, path::Path};

use object::{Object, ObjectSegment, ObjectSymbol, ReadCache, SymbolKind};
use procfs::process::{MMPermissions, MMapPath, Process};

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
    /// Opened at once: it may be removed. `None` for code that is in no file, or that nobody may read.
    file: Option<File>,
    table: Option<Table>,
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
            let file = self.file(map.dev, map.inode, name);
            self.mappings.push(Mapping { start: map.address.0, end: map.address.1, offset: map.offset, file });
        }
        self.mappings.sort_unstable_by_key(|mapping| mapping.start);
    }

    fn file(&mut self, (major, minor): (i32, i32), inode: u64, name: String) -> usize {
        let (files, pid) = (&mut self.files, self.process.pid());
        *self.known.entry((major, minor, inode, name)).or_insert_with_key(|(.., name)| {
            let stem = Path::new(name).file_name().map(|stem| stem.to_string_lossy().into_owned());
            let label = stem.map_or_else(|| "[code without a file]".to_owned(), |stem| format!("[{stem}]"));
            // As the process sees it: it may have another root. Devices are not opened: that may do something.
            let path = format!("/proc/{pid}/root{name}");
            let is_file = Path::new(&path).metadata().is_ok_and(|metadata| metadata.is_file());
            files.push(Code { label, file: is_file.then(|| File::open(path).ok()).flatten(), table: None });
            files.len() - 1
        })
    }

    /// The name of the function.
    pub(super) fn name(&mut self, frame: Frame) -> String {
        let Some(code) = self.files.get_mut(frame.file) else { return String::new() };
        let table = code.table.get_or_insert_with(|| code.file.take().and_then(Table::read).unwrap_or_default());
        match table.find(frame.offset) {
            Some(name) => readable(name),
            None => code.label.clone(),
        }
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

    fn find(&self, offset: u64) -> Option<&str> {
        let within = |(start, size, _): &&(u64, u64, u64)| (*start..start.saturating_add(*size)).contains(&offset);
        let (start, _, base) = self.segments.iter().find(within)?;
        let address = offset - start + base;
        let after = self.functions.partition_point(|(start, ..)| *start <= address);
        let (start, size, name) = self.functions.get(after.checked_sub(1)?)?;
        // Written by hand in assembler, functions have no size.
        (*size == 0 || address < start + size).then_some(name)
    }
}
