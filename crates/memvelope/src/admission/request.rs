//! What a caller asks for.

use crate::units::Tokens;

/// A request to run: what it declares, and which sub-budget and history it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Tokens of the prompt; their blocks are the lease's at once.
    pub prompt_tokens: Tokens,
    /// Most new tokens it will produce; `None`: the server's cap.
    pub max_new_tokens: Option<Tokens>,
    /// Name of its pool; `None`: the first.
    pub pool: Option<&'a str>,
    /// Label whose past output lengths feed the estimate (a client, a route, a kind of prompt);
    /// `None`: the history of all. The gate tells at most 256 labels apart; later ones count as
    /// `None`.
    pub class: Option<&'a str>,
    /// A beginning of the prompt that other leases may share. Counted as everybody's own, which is
    /// never too little, by a gate that keeps no books (`Guaranteed` without borrowing) and where
    /// the curve is not plain: a block that a window frees is no one's to share.
    pub prefix: Option<Prefix>,
}

/// A beginning of a prompt that the engine stores once for all who have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// Whatever tells prefixes apart, e.g. the hash of the last whole block.
    pub id: u64,
    /// Its tokens; only whole blocks of them are shared.
    pub tokens: Tokens,
}

impl<'a> Request<'a> {
    /// A request in the first pool, without a class or a shared prefix.
    #[must_use]
    #[inline]
    pub const fn new(prompt_tokens: Tokens, max_new_tokens: Option<Tokens>) -> Self {
        Self { prompt_tokens, max_new_tokens, pool: None, class: None, prefix: None }
    }

    /// The same in a pool.
    #[must_use]
    #[inline]
    pub const fn in_pool(self, pool: &'a str) -> Self {
        Self { pool: Some(pool), ..self }
    }

    /// The same with a class.
    #[must_use]
    #[inline]
    pub const fn of_class(self, class: &'a str) -> Self {
        Self { class: Some(class), ..self }
    }

    /// The same with a prefix that others may share.
    #[must_use]
    #[inline]
    pub const fn with_prefix(self, id: u64, tokens: Tokens) -> Self {
        Self { prefix: Some(Prefix { id, tokens }), ..self }
    }
}
