//! `cuda/referee.c`, built by `cc` with one CUPTI version's own headers.

use super::rows::{CONSTANTS, NEWER, ROWS, Row};
use cupti_sys::layout::{Field, RECORDS};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One field as the compiler places it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) offset: usize,
    pub(super) size: usize,
}

/// One kind as the compiler sees it.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) row: &'static Row,
    pub(super) number: u32,
    pub(super) size: usize,
    pub(super) fields: Vec<Place>,
}

impl Kind {
    pub(super) fn field(&self, name: &str) -> Option<&Place> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Fields that are numbers.
    pub(super) fn numbers(&self) -> impl Iterator<Item = &Place> {
        self.fields.iter().filter(|place| place.size <= size_of::<u64>())
    }
}

/// The built program, and what it says about its headers.
#[derive(Debug)]
pub(super) struct Reader {
    folder: tempfile::TempDir,
    /// `CUPTI_API_VERSION`.
    pub(super) api_version: u32,
    /// CUDA's version as major * 100 + minor.
    pub(super) version: u32,
    pub(super) kinds: Vec<Kind>,
    pub(super) constants: HashMap<String, u64>,
}

/// Values of one record's fields, by name.
pub(super) type Fields = HashMap<String, u64>;

/// The C name of a field of ours: bindgen appends an underscore to words that Rust keeps.
fn c_name(name: &str) -> String {
    name.replace(' ', "").trim_end_matches('_').to_owned()
}

/// Whether the field is a number. The others hold some, which are fields of their own.
fn is_number(field: &Field) -> bool {
    field.size <= size_of::<u64>()
}

impl Reader {
    /// Compiles it. `include` has the folders with cupti.h, cuda.h and what they include.
    pub(super) fn build(include: &[PathBuf]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            format!("\"{}\"", path.display())
        };
        let (structs, rows) = (write("structs.h", structs()), write("rows.h", rows()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cuda/referee.c");
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror"]);
        cc.arg(format!("-DSTRUCTS={structs}")).arg(format!("-DROWS={rows}"));
        // As system headers, so that only our own code is held to the warnings.
        for folder in include {
            cc.arg("-isystem").arg(folder);
        }
        cc.arg("-o").arg(folder.path().join("referee")).arg(source);
        output(&mut cc);
        let mut reader = Self {
            folder,
            api_version: 0,
            version: 0,
            kinds: Vec::new(),
            constants: HashMap::new(),
        };
        let text = output(reader.program().arg("layout"));
        for (name, _, number) in NEWER {
            reader.constants.insert((*name).to_owned(), u64::from(*number));
        }
        text.lines().for_each(|line| reader.learn(line));
        assert_eq!(reader.kinds.len(), ROWS.len());
        reader
    }

    fn program(&self) -> Command {
        Command::new(self.folder.path().join("referee"))
    }

    fn learn(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        match words[0] {
            "version" => {
                self.api_version = u32::try_from(number(1)).unwrap();
                let cuda = u32::try_from(number(2)).unwrap();
                self.version = cuda / 1000 * 100 + cuda % 1000 / 10;
            }
            "kind" => self.kinds.push(Kind {
                row: ROWS.iter().find(|row| row.name == words[1]).unwrap(),
                number: u32::try_from(number(2)).unwrap(),
                size: number(3),
                fields: Vec::new(),
            }),
            "field" => self.kinds.last_mut().unwrap().fields.push(Place {
                name: words[1].to_owned(),
                offset: number(2),
                size: number(3),
            }),
            "constant" => {
                self.constants.insert(words[1].to_owned(), number(2) as u64);
            }
            other => panic!("{other}: not what referee.c prints"),
        }
    }

    /// Reads records one after the other: the kind's name, and the fields.
    pub(super) fn fields(&self, records: &[u8]) -> Vec<(String, Fields)> {
        // Tests run side by side: each file has a name of its own.
        let mut file = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        file.write_all(records).unwrap();
        let text = output(self.program().arg("fields").arg(file.path()));
        let read = |line: &str| {
            let mut words = line.split(' ');
            let kind = words.next().unwrap().to_owned();
            let pair = |word: &str| {
                let (name, value) = word.split_once('=').unwrap();
                (name.to_owned(), value.parse().unwrap())
            };
            (kind, words.map(pair).collect())
        };
        text.lines().map(read).collect()
    }
}

/// Which struct is the newest of a kind, for the preprocessor to choose by version.
fn structs() -> String {
    let mut text = String::new();
    for row in ROWS {
        for (at, (since, name)) in row.structs.iter().rev().enumerate() {
            let word = if at == 0 { "if" } else { "elif" };
            writeln!(text, "#{word} {}", is_since(*since)).unwrap();
            writeln!(text, "#define STRUCT_{} {name}", row.name).unwrap();
        }
        text.push_str("#endif\n");
    }
    text
}

/// The preprocessor's condition for a version (major * 100 + minor) and later.
fn is_since(version: u32) -> String {
    format!("CUDA_VERSION >= {}", version / 100 * 1000 + version % 100 * 10)
}

fn rows() -> String {
    let mut text = String::new();
    for row in ROWS {
        writeln!(text, "KIND({})", row.name).unwrap();
        for field in row.record.fields {
            let word = if is_number(field) { "FIELD" } else { "PLACE" };
            writeln!(text, "{word}({})", c_name(field.name)).unwrap();
        }
        row.parts.iter().for_each(|part| writeln!(text, "FIELD({part})").unwrap());
        text.push_str("END\n");
    }
    CONSTANTS.iter().for_each(|name| writeln!(text, "CONSTANT({name})").unwrap());
    for (name, since, _) in NEWER {
        writeln!(text, "#if {}\nCONSTANT({name})\n#endif", is_since(*since)).unwrap();
    }
    text
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Where the layout table and the compiler differ, for all kinds and fields that the table has.
pub(super) fn misplaced(reader: &Reader) -> Vec<String> {
    let is_there = |name: &str| ROWS.iter().any(|row| row.name == name);
    let absent = RECORDS.iter().filter(|record| !is_there(record.name));
    let mut found: Vec<String> = absent.map(|record| format!("{}: no row", record.name)).collect();
    for kind in &reader.kinds {
        let Row { name, number, record, .. } = kind.row;
        if *number != kind.number || record.prefix_bytes > kind.size {
            found.push(format!("{name}: the compiler has {} of {}", kind.number, kind.size));
        }
        for field in record.fields {
            let place = c_name(field.name);
            let ours = Place { name: place, offset: field.offset, size: field.size };
            let theirs = kind.field(&ours.name);
            if theirs != Some(&ours) {
                found.push(format!("{name}: ours {ours:?}, the compiler's {theirs:?}"));
            }
        }
    }
    found
}
