//! Names of modules as quantisation configs write them: shell wildcards, and Python's regular
//! expressions after `re:`.
//!
//! The expressions come from a file nobody vouches for, so the matcher takes the subset that
//! quantisation tools write (classes, groups, repetition, look-ahead, anchors) and a bounded number
//! of steps. Crates that know look-ahead bound neither.

use super::effort::Effort;
use std::iter::Peekable;
use std::str::Chars;

/// `fnmatch` of Python's standard library: `*`, `?`, `[abc]`, `[!a-z]`, over the whole name.
pub(super) fn fnmatch(name: &str, pattern: &str, effort: &Effort) -> bool {
    // An opening bracket looks for the closing one in all that follows.
    let brackets = pattern.matches('[').count().saturating_add(1);
    let once = pattern.len().saturating_mul(brackets).saturating_add(name.len());
    let spend = || effort.spend(u64::try_from(once).unwrap_or(u64::MAX));
    if !spend() {
        return false;
    }
    let (name, pattern): (Vec<char>, Vec<char>) =
        (name.chars().collect(), pattern.chars().collect());
    let (mut at, mut with) = (0, 0);
    // Where the last `*` stands, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(with) {
            Some('*') => {
                star = Some((with, at));
                with += 1;
                continue;
            }
            None if at == name.len() => return true,
            Some(_) if at < name.len() => one_of(name[at], &pattern[with..]),
            _ => None,
        };
        match (step, &mut star) {
            (Some(taken), _) => (at, with) = (at + 1, with + taken),
            (None, Some((from, taken))) if *taken < name.len() => {
                // What follows is held against the name again, at worst all of it.
                if !spend() {
                    return false;
                }
                *taken += 1;
                (at, with) = (*taken, *from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// How many characters of the pattern the one character matches.
fn one_of(found: char, pattern: &[char]) -> Option<usize> {
    match pattern[0] {
        '?' => Some(1),
        '[' => {
            let negated = pattern.get(1) == Some(&'!');
            let from = if negated { 2 } else { 1 };
            // A bracket right after the opening one is a member.
            let end = pattern.iter().skip(from + 1).position(|&c| c == ']').map(|i| i + from + 1);
            let Some(end) = end else { return (found == '[').then_some(1) };
            let set = &pattern[from..end];
            let mut is_member = false;
            let mut i = 0;
            while i < set.len() {
                if i + 2 < set.len() && set[i + 1] == '-' {
                    is_member |= (set[i]..=set[i + 2]).contains(&found);
                    i += 3;
                } else {
                    is_member |= set[i] == found;
                    i += 1;
                }
            }
            (is_member != negated).then_some(end + 1)
        }
        literal => (literal == found).then_some(1),
    }
}

/// Groups within groups.
const DEPTH_MAX: u32 = 24;
/// Real ones that list the layers of a model have some hundreds.
const PATTERN_BYTES_MAX: usize = 2048;

/// A compiled expression.
#[derive(Clone, Debug)]
pub(super) struct Regex {
    alternatives: Alternatives,
    /// What every match contains: most names do not, and looking for it is quick.
    literals: Vec<String>,
}

type Alternatives = Vec<Vec<Node>>;

#[derive(Clone, Debug)]
enum Node {
    Char(char),
    Any,
    Class { negated: bool, ranges: Vec<(char, char)> },
    Start,
    End,
    Boundary { inside: bool },
    Group(Alternatives),
    Look { negated: bool, of: Alternatives },
    Repeat { of: Box<Node>, min: u32, max: u32 },
}

impl Regex {
    /// # Errors
    /// What in the pattern is not understood.
    pub(super) fn compile(pattern: &str) -> Result<Self, String> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!("a pattern of {} bytes", pattern.len()));
        }
        let mut parser = Parser { rest: pattern.chars().peekable(), depth: 0 };
        let alternatives = parser.alternatives()?;
        match parser.rest.next() {
            None => Ok(Self { literals: literals(&alternatives), alternatives }),
            Some(_) => Err("an unopened `)`".into()),
        }
    }

    /// Python's `re.match`: from the start of the name, to wherever the pattern ends.
    pub(super) fn is_match(&self, name: &str, effort: &Effort) -> bool {
        self.ends(name, false, effort) != 0
    }

    /// Python's `re.fullmatch`.
    pub(super) fn is_full_match(&self, name: &str, effort: &Effort) -> bool {
        self.ends(name, false, effort) >> name.chars().count() == 1
    }

    /// Python's `re.search`: anywhere in the name.
    pub(super) fn is_found(&self, name: &str, effort: &Effort) -> bool {
        self.ends(name, true, effort) != 0
    }

    fn ends(&self, name: &str, anywhere: bool, effort: &Effort) -> Positions {
        let may_match = || self.literals.iter().all(|literal| name.contains(literal));
        if !effort.search(1 + self.literals.len()) || !may_match() {
            return 0;
        }
        let (mut text, mut count, mut lines) = (['\0'; LENGTH_MAX], 0, 0);
        for found in name.chars() {
            if count + 1 == LENGTH_MAX {
                // None of the engine's names is as long: what cannot be told is not told.
                effort.spend(u64::MAX);
                return 0;
            }
            text[count] = found;
            lines |= if found == '\n' { 0 } else { 1 << count };
            count += 1;
        }
        let run = Run { text: &text[..count], lines, effort };
        run.any(&self.alternatives, if anywhere { run.all() } else { 1 })
    }
}

/// Runs of characters that every match contains; none where there are alternatives.
fn literals(of: &Alternatives) -> Vec<String> {
    let [nodes] = of.as_slice() else { return Vec::new() };
    let is_char = |node: &Node| matches!(node, Node::Char(_));
    let runs = nodes.chunk_by(|a, b| is_char(a) && is_char(b));
    let text = |run: &[Node]| {
        let chars = run.iter().filter_map(|node| match node {
            Node::Char(literal) => Some(*literal),
            _ => None,
        });
        chars.collect::<String>()
    };
    // A single character is in most names.
    runs.map(text).filter(|run| run.len() > 1).collect()
}

/// For every position of the name (its end included) whether a match may stand there, one bit each.
/// Only whether something matches is asked, never what, so all ways are walked at once and none is
/// walked back.
type Positions = u128;
/// Characters of a name, so that all positions fit.
const LENGTH_MAX: usize = 127;

struct Run<'a> {
    text: &'a [char],
    /// Where a character is that is no line break.
    lines: Positions,
    effort: &'a Effort,
}

impl Run<'_> {
    fn all(&self) -> Positions {
        (1 << (self.text.len() + 1)) - 1
    }

    fn any(&self, of: &[Vec<Node>], starts: Positions) -> Positions {
        let from = |nodes: &Vec<Node>| {
            nodes.iter().fold(starts, |at, node| if at == 0 { 0 } else { self.step(node, at) })
        };
        of.iter().map(from).fold(0, |ends, at| ends | at)
    }

    /// Where a match of one node may end that starts at any of `starts`.
    fn step(&self, node: &Node, starts: Positions) -> Positions {
        let times = match node {
            Node::Class { ranges, .. } => ranges.len().max(1),
            _ => 1,
        };
        let cost = self.text.len().saturating_mul(times);
        if !self.effort.spend(u64::try_from(cost).unwrap_or(u64::MAX)) || starts == 0 {
            return 0;
        }
        match node {
            Node::Group(of) => self.any(of, starts),
            Node::Repeat { of, min, max } => self.repeated(of, starts, *min, *max),
            Node::Look { negated, of } => {
                self.filter(starts, |at| (self.any(of, 1 << at) != 0) != *negated)
            }
            Node::Start | Node::End | Node::Boundary { .. } => {
                self.filter(starts, |at| self.is_at(node, at))
            }
            Node::Char(_) | Node::Any | Node::Class { .. } => self.taken(node, starts) << 1,
        }
    }

    /// Those of the positions at which something holds.
    fn filter(&self, of: Positions, holds: impl Fn(usize) -> bool) -> Positions {
        let (mut rest, mut held) = (of, 0);
        while rest != 0 {
            let first = rest & rest.wrapping_neg();
            rest ^= first;
            let at = usize::try_from(first.trailing_zeros()).unwrap_or(LENGTH_MAX);
            held |= if holds(at) { first } else { 0 };
        }
        held
    }

    /// Those of the positions whose character the node takes.
    fn taken(&self, node: &Node, of: Positions) -> Positions {
        if matches!(node, Node::Any) {
            return of & self.lines;
        }
        self.filter(of, |at| self.text.get(at).is_some_and(|&found| is_one(node, found)))
    }

    fn repeated(&self, of: &Node, starts: Positions, min: u32, max: u32) -> Positions {
        if (min, max) == (0, u32::MAX) && of.is_one() {
            // One pass, since what ends at a position may begin there again.
            let taken = self.taken(of, self.all());
            if taken == self.all() >> 1 {
                return self.all() & !((starts & starts.wrapping_neg()) - 1);
            }
            let further = |ends: Positions, at| ends | (ends & taken & (1_u128 << at)) << 1;
            return (0..self.text.len()).fold(starts, further);
        }
        let (mut ends, mut level, mut count) = (0, starts, 0);
        loop {
            if count >= min {
                if level & !ends == 0 {
                    return ends;
                }
                ends |= level;
            }
            if count >= max || level == 0 {
                return ends;
            }
            level = self.step(of, level);
            count += 1;
        }
    }

    fn is_at(&self, anchor: &Node, at: usize) -> bool {
        match anchor {
            Node::Start => at == 0,
            Node::End => at == self.text.len(),
            Node::Boundary { inside } => {
                let is_word = |i: Option<usize>| {
                    let found = i.and_then(|i| self.text.get(i));
                    found.is_some_and(|c| c.is_alphanumeric() || *c == '_')
                };
                (is_word(at.checked_sub(1)) != is_word(Some(at))) != *inside
            }
            _ => false,
        }
    }
}

impl Node {
    /// Takes exactly one character.
    fn is_one(&self) -> bool {
        matches!(self, Self::Char(_) | Self::Any | Self::Class { .. })
    }
}

fn is_one(node: &Node, found: char) -> bool {
    match node {
        Node::Char(expected) => *expected == found,
        Node::Any => found != '\n',
        Node::Class { negated, ranges } => {
            ranges.iter().any(|&(from, to)| (from..=to).contains(&found)) != *negated
        }
        _ => false,
    }
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    depth: u32,
}

impl Parser<'_> {
    fn alternatives(&mut self) -> Result<Alternatives, String> {
        let mut all = vec![Vec::new()];
        while let Some(&next) = self.rest.peek() {
            match next {
                ')' => break,
                '|' => {
                    self.rest.next();
                    all.push(Vec::new());
                }
                _ => {
                    let atom = self.atom()?;
                    let atom = self.repeated(atom)?;
                    if let Some(nodes) = all.last_mut() {
                        nodes.push(atom);
                    }
                }
            }
        }
        Ok(all)
    }

    fn atom(&mut self) -> Result<Node, String> {
        match self.rest.next() {
            Some('.') => Ok(Node::Any),
            Some('^') => Ok(Node::Start),
            Some('$') => Ok(Node::End),
            Some('[') => self.class(),
            Some('(') => self.group(),
            Some('\\') => self.escape(),
            Some(c @ ('*' | '+' | '?')) => Err(format!("a `{c}` that repeats nothing")),
            Some(literal) => Ok(Node::Char(literal)),
            None => Err("an end where something should follow".into()),
        }
    }

    fn repeated(&mut self, atom: Node) -> Result<Node, String> {
        let (min, max) = match self.rest.peek() {
            Some('*') => (0, u32::MAX),
            Some('+') => (1, u32::MAX),
            Some('?') => (0, 1),
            Some('{') => self.bounds()?,
            _ => return Ok(atom),
        };
        self.rest.next();
        // Lazy or greedy makes no difference to whether something matches.
        self.rest.next_if_eq(&'?');
        if let Some(again) = self.rest.next_if(|next| matches!(next, '*' | '+' | '?' | '{')) {
            return Err(format!("a `{again}` after another repetition"));
        }
        Ok(Node::Repeat { of: Box::new(atom), min, max })
    }

    /// `{2}`, `{2,}` or `{2,5}`; the closing brace stays.
    fn bounds(&mut self) -> Result<(u32, u32), String> {
        self.rest.next();
        let mut inside = String::new();
        while let Some(next) = self.rest.next_if(|&c| c != '}') {
            inside.push(next);
        }
        let (min, max) = inside.split_once(',').unwrap_or((&inside, &inside));
        let count = |text: &str, absent: u32| match text {
            "" => Some(absent),
            _ => text.parse::<u32>().ok().filter(|&count| count <= 256),
        };
        match (count(min, 0), count(max, u32::MAX), self.rest.peek()) {
            (Some(min), Some(max), Some('}')) if min <= max => Ok((min, max)),
            _ => Err("a `{` that bounds nothing, or more than 256".into()),
        }
    }

    fn group(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} groups in one another"));
        }
        let mut look = None;
        if self.rest.next_if_eq(&'?').is_some() {
            match self.rest.next() {
                Some(':') => {}
                Some('=') => look = Some(false),
                Some('!') => look = Some(true),
                Some('P') if self.rest.next_if_eq(&'<').is_some() => {
                    self.rest.by_ref().find(|&c| c == '>').ok_or("an unclosed group name")?;
                }
                other => return Err(format!("a group `(?{}`", other.unwrap_or(' '))),
            }
        }
        let of = self.alternatives()?;
        if self.rest.next() != Some(')') {
            return Err("an unclosed `(`".into());
        }
        self.depth -= 1;
        Ok(match look {
            None => Node::Group(of),
            Some(negated) => Node::Look { negated, of },
        })
    }

    fn escape(&mut self) -> Result<Node, String> {
        Ok(match self.rest.next() {
            None => return Err("a final backslash".into()),
            Some('b') => Node::Boundary { inside: false },
            Some('B') => Node::Boundary { inside: true },
            Some('A') => Node::Start,
            Some('Z') => Node::End,
            Some(letter) => match shorthand(letter) {
                Some((negated, ranges)) => Node::Class { negated, ranges },
                None if letter.is_ascii_alphanumeric() => return Err(format!("`\\{letter}`")),
                None => Node::Char(letter),
            },
        })
    }

    fn class(&mut self) -> Result<Node, String> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        loop {
            let next = self.rest.next().ok_or("an unclosed `[`")?;
            let from = match next {
                ']' if !ranges.is_empty() => return Ok(Node::Class { negated, ranges }),
                '\\' => {
                    let letter = self.rest.next().ok_or("a final backslash")?;
                    match shorthand(letter) {
                        Some((false, more)) => {
                            ranges.extend(more);
                            continue;
                        }
                        Some(_) => return Err(format!("`\\{letter}` in a class")),
                        None => letter,
                    }
                }
                literal => literal,
            };
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']') {
                self.rest.next();
                let to = self.rest.next().ok_or("an unclosed `[`")?;
                ranges.push((from, to));
            } else {
                ranges.push((from, from));
            }
        }
    }
}

type Shorthand = (bool, Vec<(char, char)>);

fn shorthand(letter: char) -> Option<Shorthand> {
    let ranges = match letter.to_ascii_lowercase() {
        'd' => vec![('0', '9')],
        'w' => vec![('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')],
        's' => vec![(' ', ' '), ('\t', '\r')],
        _ => return None,
    };
    Some((letter.is_ascii_uppercase(), ranges))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_whole_names() {
        for (name, pattern, expected) in [
            ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn*", true),
            ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn", false),
            ("a.mlp.shared_expert.up", "*.mlp.shared_expert.*", true),
            ("a.mlp.shared_expert", "*.mlp.shared_expert.*", false),
            ("abc", "a?c", true),
            ("abc", "a[!b]c", false),
            ("abc", "a[a-c]c", true),
            ("", "*", true),
            ("", "?", false),
            ("a[c", "a[c", true),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "*a*a*a*a*a*a*a*a*c", false),
        ] {
            let found = fnmatch(name, pattern, &Effort::default());
            assert_eq!(found, expected, "{name} {pattern}");
        }
    }

    #[test]
    fn expressions_match_as_pythons_do() {
        let down = "model.layers.3.mlp.down_proj";
        for (pattern, name, expected) in [
            ("re.*", "nothing", false),
            (r".*mlp\.(gate|up|gate_up|down)_proj.*", down, true),
            (
                r".*mlp\.(gate|up|gate_up|down)_proj.*",
                "model.layers.3.mlp.experts.0.up_proj",
                false,
            ),
            (r"model\.layers\.\d+\.mlp", down, true),
            (r"model\.layers\.(?!3\.)\d+\.mlp", down, false),
            (r"^(?!.*lm_head).*$", down, true),
            (r"model\.layers\.[0-2]\.", down, false),
            (r"(a|ab)(c|bcd)(d*)", "abcd", true),
            (r"x{2,3}$", "xxx", true),
            (r"x{2,3}$", "xxxx", false),
            (r"x{2}y", "xxy", true),
            (r".*?layers\.(\d+)\b", down, true),
            (r"(?:model|net)\.", down, true),
            (r"lm_head", "model.lm_head", false),
        ] {
            assert_eq!(
                Regex::compile(pattern).unwrap().is_match(name, &Effort::default()),
                expected,
                "{pattern} {name}"
            );
        }
        let effort = Effort::default();
        assert!(Regex::compile("lm_head").unwrap().is_found("model.lm_head", &effort));
        assert!(!Regex::compile("model").unwrap().is_full_match("model.lm_head", &effort));
    }

    #[test]
    fn hostile_expressions_end() {
        let name = "a".repeat(126);
        for pattern in ["(a*)*b", "(a|a)*b", "(a|aa)+$b", "((a*)*)*b", "(.*)(.*)(.*)(.*)(.*)(.*)b"]
        {
            let effort = Effort::default();
            assert!(!Regex::compile(pattern).unwrap().is_match(&name, &effort), "{pattern}");
            assert!(!effort.is_spent(), "{pattern}");
        }
        let effort = Effort::default();
        assert!(!Regex::compile("a").unwrap().is_match(&"a".repeat(127), &effort));
        assert!(effort.is_spent());
        // Looks ahead from each of the positions, at each of the positions: what takes too long
        // is seen to do so.
        let nested = "(((.{0,256}){0,256}){0,256}){0,256}[bc]";
        let effort = Effort::little();
        for _ in 0..10_000 {
            Regex::compile(nested).unwrap().is_match(&name, &effort);
            if effort.is_spent() {
                break;
            }
        }
        assert!(effort.is_spent());
        for broken in ["(", ")", "[", "*", "a{9999}", "(?<x)", "\\", "\\p", "a**", "a*?+"] {
            assert!(Regex::compile(broken).is_err(), "{broken}");
        }
        for deep in ["(", "a*", "[", "(?="] {
            assert!(Regex::compile(&deep.repeat(5_000)).is_err(), "{deep}");
        }
        assert!(Regex::compile(&"(".repeat(100)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_panics(pattern in "[a-c(|)*+?.\\[\\]{}0-9,\\\\^$!:=-]{0,24}", name in "[a-c.]{0,24}") {
            let effort = Effort::default();
            let _ = fnmatch(&name, &pattern, &effort);
            if let Ok(regex) = Regex::compile(&pattern) {
                let _ = regex.is_found(&name, &effort);
            }
        }
    }
}
