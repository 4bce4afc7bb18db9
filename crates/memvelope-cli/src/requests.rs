//! The stream of requests: from a CSV file, or drawn by a seeded generator.

use crate::failure::{Failure, Outcome};
use rand::RngExt;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// Columns of a request file, in any order; `class` may be missing.
const COLUMNS: [&str; 4] = ["timestamp_s", "prompt_tokens", "output_tokens", "class"];

/// A timestamp past this is a unit mistake (milliseconds, Unix time), not a trace: ten years.
const TIMESTAMP_S_MAX: f64 = 10.0 * 365.25 * 86_400.0;

/// Rows a file may have; each takes 32 bytes of memory.
const ROWS_MAX: usize = 10_000_000;

/// Different classes that a file may name: more than any trace has conversations, and few enough
/// that their names fit in memory beside the rows.
const CLASSES_MAX: usize = 1 << 20;

/// What a file or the generator holds: requests in order of arrival, and the names of their
/// classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Requests {
    /// In order of arrival.
    pub(crate) rows: Vec<Request>,
    /// Names that [`Request::class`] counts into, in order of their first row in the file.
    pub(crate) classes: Vec<String>,
}

/// One request as the client sends it.
///
/// Token counts are as on the wire: a negative number is a count that no gate accepts
/// (two's complement, past 63 bits), so that it is the gate that rejects it, with its reason.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Request {
    /// When it arrives, in seconds since the first of them could.
    pub(crate) arrival_s: f64,
    /// Tokens of its prompt.
    pub(crate) prompt_tokens: u64,
    /// Tokens it would produce if nobody cut it.
    pub(crate) output_tokens: u64,
    /// Index of its class; `None` where the file has no such column, or the row nothing in it.
    pub(crate) class: Option<u32>,
}

/// How the generator draws.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generator {
    /// How many requests.
    pub(crate) count: u64,
    /// Arrivals per second (Poisson).
    pub(crate) rate_per_s: f64,
    /// Seed; the same seed draws the same requests.
    pub(crate) seed: u64,
}

impl Generator {
    /// Medians and spreads of the log-normal lengths. They give means of about 1,150 and 210
    /// tokens, those of the public Azure conversation trace of 2023.
    const PROMPT: (f64, f64) = (700.0, 1.0);
    const OUTPUT: (f64, f64) = (155.0, 0.78);
    /// Longest prompt and output drawn: that trace's longest, rounded.
    const PROMPT_TOKENS_MAX: f64 = 14_000.0;
    const OUTPUT_TOKENS_MAX: f64 = 1_000.0;

    /// Draws all requests, in order of arrival.
    pub(crate) fn draw(&self) -> Vec<Request> {
        let mut random = Pcg64::seed_from_u64(self.seed);
        let mut now_s = 0.0;
        (0..self.count)
            .map(|_| {
                let request = Request {
                    arrival_s: now_s,
                    prompt_tokens: length(&mut random, Self::PROMPT, Self::PROMPT_TOKENS_MAX),
                    output_tokens: length(&mut random, Self::OUTPUT, Self::OUTPUT_TOKENS_MAX),
                    class: None,
                };
                now_s -= (1.0 - random.random::<f64>()).ln() / self.rate_per_s;
                request
            })
            .collect()
    }
}

/// A log-normal length in whole tokens, at least one.
fn length(random: &mut Pcg64, (median, sigma): (f64, f64), tokens_max: f64) -> u64 {
    // Box-Muller; 1 - u keeps the logarithm away from zero.
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * random.random::<f64>()).cos();
    (median * (sigma * normal).exp()).clamp(1.0, tokens_max) as u64
}

/// Reads a request file.
///
/// # Errors
/// Names the file, the line and the field.
pub(crate) fn read_csv(path: &Path) -> Outcome<Requests> {
    let file = std::fs::File::open(path)
        .map_err(|source| memvelope::Error::ReadFile { path: path.to_owned(), source })?;
    parse_csv(file, &path.display().to_string())
}

/// Longest line of a request file; real ones have some forty bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A reader that refuses endless lines, so that no file (or device) is read into memory whole, and
/// that hands on every end of a line (LF, CRLF, CR, and the end of the file) as one LF: the parser
/// counts those, and takes any.
struct Lines<R> {
    source: R,
    /// Bytes since the last end of a line.
    length: usize,
    /// The last byte of the source was a CR, so an LF next is part of the same end.
    is_after_cr: bool,
}

impl<R> Lines<R> {
    const fn new(source: R) -> Self {
        Self { source, length: 0, is_after_cr: false }
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.source.read(buffer)?;
            if count == 0 && self.length > 0 && !buffer.is_empty() {
                (buffer[0], self.length) = (b'\n', 0);
                return Ok(1);
            }
            let mut kept = 0;
            for index in 0..count {
                let byte = buffer[index];
                let is_second = byte == b'\n' && self.is_after_cr;
                self.is_after_cr = byte == b'\r';
                if is_second {
                    continue;
                }
                let is_end = matches!(byte, b'\r' | b'\n');
                self.length = if is_end { 0 } else { self.length + 1 };
                buffer[kept] = if is_end { b'\n' } else { byte };
                kept += 1;
            }
            if self.length > LINE_BYTES_MAX {
                let problem = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                return Err(std::io::Error::other(problem));
            }
            if kept > 0 || count == 0 {
                return Ok(kept);
            }
        }
    }
}

/// The line that the record just read ends on: the parser stands at the start of the next one.
fn line_of<R: Read>(reader: &csv::Reader<R>) -> u64 {
    reader.position().line().saturating_sub(1).max(1)
}

/// Text of the file, short enough for an error line.
fn short(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    if text.chars().count() <= CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(CHARS_MAX).chain("...".chars()).collect()
}

fn parse_csv(source: impl Read, file: &str) -> Outcome<Requests> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(Lines::new(source));
    let columns = Columns::find(&mut reader, file)?;
    let mut rows = Vec::new();
    let mut classes = Classes::default();
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) if rows.len() == ROWS_MAX => {
                return Err(Failure::bad(format!(
                    "{file}: more than {ROWS_MAX} rows\nhint: cut the file into parts"
                )));
            }
            Ok(true) => {
                let row = columns.request(&record, file, line_of(&reader), &mut classes)?;
                rows.push(row);
            }
            Err(error) => {
                return Err(malformed(&error, file, line_of(&reader), &columns.names));
            }
        }
    }
    if rows.is_empty() {
        return Err(Failure::bad(format!(
            "{file}: no requests, only a header\nhint: one line a request: {}",
            COLUMNS.join(",")
        )));
    }
    // Traces merged from several sources are not always in order; arrival decides.
    rows.sort_by(|a: &Request, b: &Request| a.arrival_s.total_cmp(&b.arrival_s));
    Ok(Requests { rows, classes: classes.names })
}

/// Names of classes and their indices.
#[derive(Default)]
struct Classes {
    names: Vec<String>,
    known: HashMap<String, u32>,
}

impl Classes {
    /// Index of a name, a new one where it is new; `None` when there are too many.
    fn index(&mut self, name: &str) -> Option<u32> {
        if let Some(index) = self.known.get(name) {
            return Some(*index);
        }
        let index = u32::try_from(self.names.len()).ok()?;
        if self.names.len() == CLASSES_MAX {
            return None;
        }
        self.names.push(name.to_owned());
        self.known.insert(name.to_owned(), index);
        Some(index)
    }
}

/// Where each column is.
struct Columns {
    names: Vec<String>,
    timestamp: usize,
    prompt: usize,
    output: usize,
    class: Option<usize>,
}

impl Columns {
    fn find(reader: &mut csv::Reader<impl Read>, file: &str) -> Outcome<Self> {
        let header = reader.headers().map_err(|error| malformed(&error, file, 1, &[]))?;
        let find = |name: &str| {
            header.iter().position(|column| column == name).ok_or_else(|| {
                Failure::bad(format!(
                    "{file}:1: field `{name}`: there is no such column\n\
                     hint: the first line must name the columns {}, the last one optional",
                    COLUMNS.join(",")
                ))
            })
        };
        let columns = Self {
            names: header.iter().map(str::to_owned).collect(),
            timestamp: find(COLUMNS[0])?,
            prompt: find(COLUMNS[1])?,
            output: find(COLUMNS[2])?,
            class: header.iter().position(|column| column == COLUMNS[3]),
        };
        let known = COLUMNS.join(",");
        for (index, column) in header.iter().enumerate() {
            let problem = if !COLUMNS.contains(&column) {
                "unknown column"
            } else if header.iter().take(index).any(|other| other == column) {
                "there are two such columns"
            } else {
                continue;
            };
            let column = short(column);
            return Err(Failure::bad(format!(
                "{file}:1: field `{column}`: {problem}\nhint: known, each once: {known}"
            )));
        }
        Ok(columns)
    }

    fn request(
        &self,
        record: &csv::StringRecord,
        file: &str,
        line: u64,
        classes: &mut Classes,
    ) -> Outcome<Request> {
        let field = |column: usize| record.get(column).unwrap_or_default();
        let refuse = |name: &str, value: &str, expected: &str| {
            let value = short(value);
            Failure::bad(format!(
                "{file}:{line}: field `{name}`: {value:?} is not {expected}\n\
                 hint: correct the line, or leave it out"
            ))
        };
        let text = field(self.timestamp);
        let arrival_s = text
            .parse::<f64>()
            .ok()
            .filter(|seconds| (0.0..=TIMESTAMP_S_MAX).contains(seconds))
            .ok_or_else(|| refuse(COLUMNS[0], text, "a time in seconds from 0 to ten years"))?;
        let count = |column: usize, name: &str| {
            let text = field(column);
            wire_count(text).ok_or_else(|| refuse(name, text, "a whole number of tokens"))
        };
        Ok(Request {
            arrival_s,
            prompt_tokens: count(self.prompt, COLUMNS[1])?,
            output_tokens: count(self.output, COLUMNS[2])?,
            class: match self.class.map(field).filter(|name| !name.is_empty()) {
                None => None,
                Some(name) => Some(classes.index(name).ok_or_else(|| {
                    Failure::bad(format!(
                        "{file}:{line}: field `{}`: more than {CLASSES_MAX} different classes\n\
                         hint: leave the column out, or name kinds of traffic in it",
                        COLUMNS[3]
                    ))
                })?),
            },
        })
    }
}

/// A whole number of any sign and size as a wire count: negative ones in two's complement, those
/// past 64 bits held at the largest. Neither fits 63 bits, so a gate rejects both.
fn wire_count(text: &str) -> Option<u64> {
    if let Ok(count) = text.parse::<i64>() {
        return Some(count.cast_unsigned());
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_whole.then_some(u64::MAX)
}

fn malformed(error: &csv::Error, file: &str, line: u64, names: &[String]) -> Failure {
    let name = |field: usize| names.get(field).map_or("(past the last)", String::as_str);
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            // The first field that is missing, or the first one too many.
            let field = (*len).min(*expected_len) as usize;
            Failure::bad(format!(
                "{file}:{line}: field `{}`: the line has {len} fields, the header {expected_len}\n\
                 hint: correct the line, or leave it out",
                name(field)
            ))
        }
        csv::ErrorKind::Utf8 { err, .. } => {
            let name = name(err.field());
            let hint = "hint: save the file as UTF-8";
            Failure::bad(format!("{file}:{line}: field `{name}`: not UTF-8\n{hint}"))
        }
        _ => Failure::bad(format!(
            "{file}:{line}: {error}\nhint: is this a CSV file of requests? {}",
            COLUMNS.join(",")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<usize, &str>) -> Vec<Request> {
        match (parse_csv(text.as_bytes(), "f.csv"), expect) {
            (Ok(requests), Ok(count)) => {
                assert_eq!(requests.rows.len(), count);
                requests.rows
            }
            (Err(Failure::BadInput(error)), Err(part)) => {
                assert!(error.to_string().contains(part), "{error}");
                Vec::new()
            }
            (got, expect) => panic!("{text:?}: {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn a_malformed_file_is_named_with_line_and_field() {
        let head = "timestamp_s,prompt_tokens,output_tokens,class\n";
        check("", Err("f.csv:1: field `timestamp_s`"));
        check(head, Err("no requests"));
        check("timestamp_s,prompt_tokens\n0,1\n", Err("f.csv:1: field `output_tokens`"));
        check("timestamp_s,prompt_tokens,output_tokens,colour\n", Err("field `colour`"));
        check(&format!("{head}0,1,2,a\n0,x,2,a\n"), Err("f.csv:3: field `prompt_tokens`: \"x\""));
        check(&format!("{head}0,1,2.5,a\n"), Err("f.csv:2: field `output_tokens`: \"2.5\""));
        check(&format!("{head}-1,1,2,a\n"), Err("f.csv:2: field `timestamp_s`"));
        check(&format!("{head}NaN,1,2,a\n"), Err("f.csv:2: field `timestamp_s`"));
        check(&format!("{head}1e300,1,2,a\n"), Err("f.csv:2: field `timestamp_s`"));
        check(&format!("{head}0,1\n"), Err("f.csv:2: field `output_tokens`"));
        check(&format!("{head}0,,2,a\n"), Err("f.csv:2: field `prompt_tokens`: \"\""));
        check(&format!("{head}0,{},2,a\n", "x".repeat(1000)), Err("xxx...\" is not a whole"));
        check("timestamp_s,prompt_tokens,output_tokens,prompt_tokens\n", Err("two such columns"));
        // Whatever ends a line, and however many are empty, it is the line an editor shows.
        for end in ["\n", "\r\n", "\r"] {
            let file = |lines: &[&str]| lines.join(end);
            let head = head.trim_end();
            check(&file(&[head, "0,1,2,a", "1,2,2,a", ""]), Ok(2));
            check(&file(&[head, "0,1,2,a", "1,x,2,a"]), Err("f.csv:3: field `prompt_tokens`"));
            check(&file(&[head, "0,1,2,a", "1,x,2,a", ""]), Err("f.csv:3: field `prompt_tokens`"));
            check(&file(&[head, "0,1,2,a", "1", "2,2,2,a"]), Err("f.csv:3: field `prompt_tokens`"));
            check(&file(&[head, "", "", "0,x,2,a"]), Err("f.csv:4: field `prompt_tokens`"));
            check(&file(&["", head, "0,x,2,a"]), Err("f.csv:3: field `prompt_tokens`"));
        }
        check(&"0".repeat(1 << 20), Err("f.csv:1: a line is longer than"));
        check(&format!("{head}{}", "0,1,2,a\n".repeat(20_000)), Ok(20_000));
    }

    #[test]
    fn absurd_counts_pass_the_file_and_are_left_to_the_gate() {
        let text =
            "timestamp_s,prompt_tokens,output_tokens\n0,-5,1\n0,0,1\n0,99999999999999999999,1\n";
        let requests = check(text, Ok(3));
        assert!(requests[0].prompt_tokens > u64::MAX >> 1);
        assert_eq!(requests[1].prompt_tokens, 0);
        assert_eq!(requests[2].prompt_tokens, u64::MAX);
    }

    #[test]
    fn classes_are_kept_where_there_are_any() {
        let text =
            "class,timestamp_s,prompt_tokens,output_tokens\nb,1,1,1\na,0,1,1\n,2,1,1\nb,3,1,1";
        let requests = parse_csv(text.as_bytes(), "f.csv").unwrap();
        assert_eq!(requests.classes, ["b", "a"]);
        let classes: Vec<_> = requests.rows.iter().map(|row| row.class).collect();
        assert_eq!(classes, [Some(1), Some(0), None, Some(0)]);
        let requests = check("timestamp_s,prompt_tokens,output_tokens\n0,1,1\n", Ok(1));
        assert_eq!(requests[0].class, None);
    }

    #[test]
    fn rows_are_put_in_order_of_arrival() {
        let requests = check("output_tokens,timestamp_s,prompt_tokens\n7,2,1\n8,1,1\n", Ok(2));
        assert_eq!(requests[0].output_tokens, 8);
    }

    #[test]
    fn the_generator_repeats_itself_and_has_the_means_it_names() {
        let generator = Generator { count: 20_000, rate_per_s: 50.0, seed: 7 };
        let requests = generator.draw();
        assert_eq!(requests, generator.draw());
        let mean = |of: fn(&Request) -> u64| {
            requests.iter().map(of).sum::<u64>() as f64 / requests.len() as f64
        };
        assert!((1000.0..1300.0).contains(&mean(|r| r.prompt_tokens)));
        assert!((190.0..230.0).contains(&mean(|r| r.output_tokens)));
        let last = requests.last().unwrap().arrival_s;
        assert!((350.0..450.0).contains(&last), "{last}");
    }
}
