//! Texts of names and scopes as they stand in a trace, kept for as long as they are in use: most
//! events share few of them.

use super::text::{put_escaped, put_hex};
use crate::event::{NameId, Names, ScopeId, Scopes, TraceContext};

/// Names kept. Ids count up, so that the names of one program rarely share a place.
const NAMES: usize = 1024;

/// Scopes kept: several times what is under way at once.
const SCOPES: usize = 256;

#[derive(Debug)]
pub(super) struct Recent<'a> {
    names: &'a Names,
    scopes: &'a Scopes,
    name_texts: Vec<(Option<NameId>, Vec<u8>)>,
    scope_texts: Vec<(ScopeId, Known, Vec<u8>)>,
}

/// Whether more than a scope's name is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    Forgotten,
}

impl<'a> Recent<'a> {
    pub(super) fn new(names: &'a Names, scopes: &'a Scopes) -> Self {
        Self {
            names,
            scopes,
            name_texts: vec![Default::default(); NAMES],
            scope_texts: vec![(ScopeId::NONE, Known::Yes, Vec::new()); SCOPES],
        }
    }

    /// Appends a name as the inside of a string.
    #[inline]
    pub(super) fn put_name(&mut self, line: &mut Vec<u8>, name: NameId) {
        let (known, text) = &mut self.name_texts[name.0 as usize % NAMES];
        if *known != Some(name) {
            text.clear();
            put_escaped(text, &self.names.text(name));
            *known = Some(name);
        }
        line.extend_from_slice(text);
    }

    /// Appends a scope as members of an object that has others before: its name and, where they
    /// are known, its ids. Nothing for no scope.
    #[inline]
    pub(super) fn put_scope(&mut self, line: &mut Vec<u8>, scope: ScopeId) -> Known {
        if !scope.is_some() {
            return Known::Yes;
        }
        let slot = scope.number() as usize % SCOPES;
        if self.scope_texts[slot].0 != scope {
            self.render(slot, scope);
        }
        let (_, known, text) = &self.scope_texts[slot];
        line.extend_from_slice(text);
        *known
    }

    #[cold]
    fn render(&mut self, slot: usize, scope: ScopeId) {
        let mut text = std::mem::take(&mut self.scope_texts[slot].2);
        text.clear();
        text.extend_from_slice(b",\"scope\":\"");
        self.put_name(&mut text, scope.name());
        text.push(b'"');
        let found = self.scopes.get(scope);
        if let Some(trace) = found.and_then(|scope| scope.trace) {
            text.push(b',');
            put_ids(&mut text, trace);
        }
        let known = if found.is_some() { Known::Yes } else { Known::Forgotten };
        self.scope_texts[slot] = (scope, known, text);
    }

    /// Where a scope belongs in a distributed trace, if that is known.
    pub(super) fn trace_of(&self, scope: ScopeId) -> Option<TraceContext> {
        self.scopes.get(scope)?.trace
    }
}

/// Appends the ids of a trace context as members of an object.
pub(super) fn put_ids(line: &mut Vec<u8>, trace: TraceContext) {
    line.extend_from_slice(b"\"trace_id\":\"");
    put_hex(line, trace.trace_id, 32);
    line.push(b'"');
    if trace.span_id != 0 {
        line.extend_from_slice(b",\"span_id\":\"");
        put_hex(line, u128::from(trace.span_id), 16);
        line.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_scopes_that_share_a_place_are_told_apart() {
        let (names, scopes) = (Names::new(3 * NAMES, 64), Scopes::new(2 * SCOPES));
        let ids: Vec<_> = (0..2 * NAMES).map(|i| names.intern(&format!("n{i}"))).collect();
        let opened: Vec<_> = (0..3 * SCOPES)
            .map(|i| {
                let trace = TraceContext { trace_id: i as u128 + 1, span_id: 0, is_sampled: true };
                scopes.open(ids[i], Some(trace))
            })
            .collect();
        let mut recent = Recent::new(&names, &scopes);
        let mut line = Vec::new();
        for _ in 0..2 {
            for (i, name) in ids.iter().enumerate() {
                line.clear();
                recent.put_name(&mut line, *name);
                assert_eq!(line, format!("n{i}").as_bytes());
            }
            for (i, scope) in opened.iter().enumerate() {
                line.clear();
                let known = recent.put_scope(&mut line, *scope);
                let is_forgotten = i < SCOPES;
                assert_eq!(known == Known::Forgotten, is_forgotten, "{i}");
                let ids = format!(",\"trace_id\":\"{:032x}\"", i + 1);
                let expect =
                    format!(",\"scope\":\"n{i}\"{}", if is_forgotten { "" } else { ids.as_str() });
                assert_eq!(String::from_utf8_lossy(&line), expect);
            }
        }
    }
}
