//! What an ELF file says of itself, read without running it.

use object::{
    Endianness,
    elf::{self, FileHeader64},
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, Sym as _},
};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// What an ELF file says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Libraries it needs.
    pub(crate) needed: Vec<String>,
    /// It asks never to be unmapped.
    pub(crate) nodelete: bool,
    /// Symbols that are unique in the process; one that is bound keeps the library mapped for good.
    pub(crate) unique_symbols: usize,
}

/// The machine this host is built for: number and name.
const MACHINE: (u16, &str) = match () {
    #[cfg(target_arch = "x86_64")]
    () => (elf::EM_X86_64, "x86-64"),
    #[cfg(target_arch = "aarch64")]
    () => (elf::EM_AARCH64, "aarch64"),
    #[cfg(target_arch = "riscv64")]
    () => (elf::EM_RISCV, "riscv64"),
};

/// Looks at a whole file. A file that passes can be mapped without reading past its end.
///
/// # Errors
/// When it is not a complete shared library for this machine.
pub(crate) fn inspect(file: &[u8]) -> Result<Facts, Refusal> {
    if file.is_empty() {
        return Err(Refusal::Empty);
    }
    if !file.starts_with(&elf::ELFMAG[..file.len().min(4)]) {
        let text = std::str::from_utf8(file).is_ok_and(|text| !text.contains('\0'));
        return Err(if text { Refusal::Text } else { Refusal::NotElf });
    }
    let size = file.len() as u64;
    let truncated = |what: &str, end: u64| Refusal::Truncated { what: what.to_owned(), end, size };
    let header_size = size_of::<FileHeader64<Endianness>>() as u64;
    if let Some(&class) = file.get(4).filter(|class| **class != elf::ELFCLASS64) {
        let found = if class == elf::ELFCLASS32 { "a 32-bit machine" } else { "no machine that is known" };
        return Err(Refusal::OtherMachine { expected: MACHINE.1.to_owned(), found: found.to_owned() });
    }
    if size < header_size {
        return Err(truncated("its header", header_size));
    }
    let damaged = |error: object::Error| Refusal::Damaged(error.to_string());
    let header = FileHeader64::<Endianness>::parse(file).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    if header.e_machine(endian) != MACHINE.0 || header.is_big_endian() != cfg!(target_endian = "big") {
        let found = machine_name(header.e_machine(endian));
        return Err(Refusal::OtherMachine { expected: MACHINE.1.to_owned(), found });
    }
    if header.e_type(endian) != elf::ET_DYN {
        let found = match header.e_type(endian) {
            elf::ET_REL => "an object file".to_owned(),
            elf::ET_EXEC => "a program".to_owned(),
            elf::ET_CORE => "a core dump".to_owned(),
            other => format!("of type {other}"),
        };
        return Err(Refusal::NotShared { found });
    }

    let end_of_segments =
        header.e_phoff(endian) + u64::from(header.e_phentsize(endian)) * u64::from(header.e_phnum(endian));
    if end_of_segments > size {
        return Err(truncated("its table of segments", end_of_segments));
    }
    for segment in header.program_headers(endian, file).map_err(damaged)? {
        let end = segment.p_offset(endian).saturating_add(segment.p_filesz(endian));
        if end > size && segment.p_type(endian) != elf::PT_NULL {
            return Err(truncated("a segment", end));
        }
    }
    // The loader does not need the sections, but they stand last: that is how a copy under way is told from a whole file.
    let end_of_sections =
        header.e_shoff(endian) + u64::from(header.e_shentsize(endian)) * u64::from(header.e_shnum(endian));
    if end_of_sections > size {
        return Err(truncated("its table of sections", end_of_sections));
    }
    facts(header, endian, file).map_err(damaged)
}

fn facts(header: &FileHeader64<Endianness>, endian: Endianness, file: &[u8]) -> object::Result<Facts> {
    let mut facts = Facts::default();
    let sections = header.sections(endian, file)?;
    if let Some((entries, strings)) = sections.dynamic(endian, file)? {
        let strings = sections.strings(endian, file, strings)?;
        for entry in entries {
            match entry.tag32(endian) {
                Some(elf::DT_NULL) => break,
                Some(elf::DT_NEEDED) => {
                    facts.needed.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
                }
                Some(elf::DT_FLAGS_1) => facts.nodelete = entry.d_val(endian) & u64::from(elf::DF_1_NODELETE) != 0,
                _ => {}
            }
        }
    }
    let symbols = sections.symbols(endian, file, elf::SHT_DYNSYM)?;
    facts.unique_symbols =
        symbols.iter().filter(|symbol| symbol.st_bind() == elf::STB_GNU_UNIQUE && !symbol.is_undefined(endian)).count();
    Ok(facts)
}

/// The symbols that a library offers to others.
pub(crate) fn exports(file: &[u8]) -> Vec<String> {
    let read = || -> object::Result<Vec<String>> {
        let header = FileHeader64::<Endianness>::parse(file)?;
        let endian = header.endian()?;
        let symbols = header.sections(endian, file)?.symbols(endian, file, elf::SHT_DYNSYM)?;
        let offered = symbols.iter().filter(|symbol| {
            !symbol.is_undefined(endian)
                && matches!(symbol.st_bind(), elf::STB_GLOBAL | elf::STB_WEAK | elf::STB_GNU_UNIQUE)
        });
        let name =
            |symbol: &elf::Sym64<Endianness>| symbol.name(endian, symbols.strings()).map(String::from_utf8_lossy);
        offered.map(|symbol| Ok(name(symbol)?.into_owned())).collect()
    };
    read().unwrap_or_default()
}

fn machine_name(machine: u16) -> String {
    match machine {
        elf::EM_386 => "32-bit x86".to_owned(),
        elf::EM_X86_64 => "x86-64".to_owned(),
        elf::EM_ARM => "32-bit ARM".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_RISCV => "RISC-V".to_owned(),
        elf::EM_PPC64 => "64-bit PowerPC".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        other => format!("machine number {other}"),
    }
}
