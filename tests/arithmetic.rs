//! The arithmetic that the pages show: numbers, names, `+ - x /`, parentheses, and `ceil(a)`,
//! `floor(a)`, `max(a, b)`, `min(a, b)`, `up(a, b)` (up to the next multiple of b).

use std::collections::BTreeMap;

struct Parser<'a> {
    rest: &'a str,
    known: &'a BTreeMap<String, f64>,
    used: Vec<String>,
}

/// The value of an expression, and the names it uses.
pub(crate) fn evaluate(
    text: &str,
    known: &BTreeMap<String, f64>,
) -> Result<(f64, Vec<String>), String> {
    let mut parser = Parser { rest: text, known, used: Vec::new() };
    let value = parser.sum()?;
    match parser.rest.trim() {
        "" => Ok((value, parser.used)),
        rest => Err(format!("what is {rest:?}?")),
    }
}

impl Parser<'_> {
    fn take(&mut self, wanted: &str) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(wanted);
        rest.is_some_and(|rest| {
            self.rest = rest;
            true
        })
    }

    /// Letters, digits and underscores.
    fn word(&mut self) -> String {
        self.rest = self.rest.trim_start();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value += self.product()?;
            } else if self.take("-") {
                value -= self.product()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.factor()?;
        loop {
            if self.take("x ") {
                value *= self.factor()?;
            } else if self.take("/") {
                value /= self.factor()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn factor(&mut self) -> Result<f64, String> {
        if self.take("(") {
            let value = self.sum()?;
            return if self.take(")") { Ok(value) } else { Err("a ) is missing".into()) };
        }
        let word = self.word();
        if self.take("(") {
            let first = self.sum()?;
            let second = if self.take(",") { Some(self.sum()?) } else { None };
            if !self.take(")") {
                return Err("a ) is missing".into());
            }
            return call(&word, first, second);
        }
        if let Ok(number) = word.parse() {
            return Ok(number);
        }
        let value = self.known.get(&word).copied();
        self.used.push(word.clone());
        value.ok_or(format!("{word:?} was not said above"))
    }
}

fn call(name: &str, first: f64, second: Option<f64>) -> Result<f64, String> {
    match (name, second) {
        ("ceil", None) => Ok(first.ceil()),
        ("floor", None) => Ok(first.floor()),
        ("max", Some(second)) => Ok(first.max(second)),
        ("min", Some(second)) => Ok(first.min(second)),
        ("up", Some(second)) => Ok((first / second).ceil() * second),
        _ => Err(format!("{name:?} is no function of so many numbers")),
    }
}
