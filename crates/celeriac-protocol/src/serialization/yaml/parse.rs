//! Tokens to a graph of nodes, in which an alias is the node that it names.

use std::collections::HashMap;

use celeriac_error::{Error, Result};

use super::resolve::{Tag, resolve};
use super::scan::{Scanner, Token};
use crate::serialization::limits::MAX_DEPTH;
use crate::serialization::{Limits, Value};

/// A node by its number.
pub(super) type Id = usize;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) tag: Tag,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Scalar(Value),
    Sequence(Vec<Id>),
    Mapping(Vec<(Id, Id)>),
}

pub(super) struct Document {
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
}

/// The one document of a text; `None` when it is empty.
pub(super) fn parse(text: &str, limits: &Limits) -> Result<Option<Document>> {
    let mut parser = Parser {
        scanner: Scanner::new(text),
        limits,
        nodes: Vec::new(),
        anchors: HashMap::new(),
        handles: HashMap::new(),
    };
    parser.document()
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    limits: &'a Limits,
    nodes: Vec<Node>,
    anchors: HashMap<String, Id>,
    handles: HashMap<String, String>,
}

/// Where a node stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Block,
    /// The value of a block mapping, where a sequence need not be indented.
    BlockValue,
    Flow,
}

/// What a node is.
enum Kind {
    /// A scalar, or an alias of any node: complete.
    Scalar,
    FlowSequence,
    FlowMapping,
    BlockSequence,
    /// In the value of a block mapping.
    IndentlessSequence,
    BlockMapping,
}

const OWN_PREFIX: &str = "tag:yaml.org,2002:";

impl Parser<'_> {
    fn document(&mut self) -> Result<Option<Document>> {
        if *self.peek()? == Token::StreamEnd {
            return Ok(None);
        }
        let directives = self.directives()?;
        let explicit = *self.peek()? == Token::DocumentStart;
        if explicit {
            self.next()?;
        } else if directives {
            return Err(self.unexpected("the start of a document"));
        }
        let is_empty = explicit
            && matches!(
                self.peek()?,
                Token::Version { .. }
                    | Token::TagDirective { .. }
                    | Token::OtherDirective
                    | Token::DocumentStart
                    | Token::DocumentEnd
                    | Token::StreamEnd
            );
        let root = if is_empty { self.empty()? } else { self.node(Place::Block, 0)? };
        while *self.peek()? == Token::DocumentEnd {
            self.next()?;
        }
        if *self.peek()? != Token::StreamEnd {
            return Err(self.unexpected("the end: there is to be one document"));
        }
        Ok(Some(Document { nodes: std::mem::take(&mut self.nodes), root }))
    }

    fn directives(&mut self) -> Result<bool> {
        let mut any = false;
        let mut version = false;
        loop {
            match self.peek()? {
                Token::Version { major } => {
                    if version || major.trim_start_matches('0') != "1" {
                        return Err(self.scanner.wrong("a document has one version, and that is 1.x"));
                    }
                    version = true;
                }
                Token::TagDirective { .. } | Token::OtherDirective => {}
                _ => break,
            }
            any = true;
            if let Token::TagDirective { handle, prefix } = self.next()?
                && self.handles.insert(handle, prefix).is_some()
            {
                return Err(self.scanner.wrong("a handle of a tag is there twice"));
            }
        }
        self.handles.entry("!".to_owned()).or_insert_with(|| "!".to_owned());
        self.handles.entry("!!".to_owned()).or_insert_with(|| OWN_PREFIX.to_owned());
        Ok(any)
    }

    fn peek(&mut self) -> Result<&Token> {
        self.scanner.peek_token()
    }

    fn next(&mut self) -> Result<Token> {
        self.scanner.next_token()
    }

    /// Takes the next token when it is this one.
    fn takes(&mut self, token: &Token) -> Result<bool> {
        let there = self.peek()? == token;
        if there {
            self.next()?;
        }
        Ok(there)
    }

    fn unexpected(&mut self, expected: &str) -> Error {
        let found = match self.scanner.peek_token() {
            Ok(token) => format!("{token:?}"),
            Err(error) => return error,
        };
        let found: String = found.chars().take(40).collect();
        self.scanner.wrong(&format!("expected {expected}, found {found}"))
    }

    fn add(&mut self, tag: Tag, content: Content) -> Result<Id> {
        if self.nodes.len() >= self.limits.values {
            return Err(Error::LimitExceeded {
                limit: "values",
                allowed: self.limits.values,
                what: "the number of nodes".to_owned(),
            });
        }
        self.nodes.push(Node { tag, content });
        Ok(self.nodes.len() - 1)
    }

    /// A place where a value could be and is not: null.
    fn empty(&mut self) -> Result<Id> {
        self.add(Tag::Null, Content::Scalar(Value::Text(String::new())))
    }

    fn node(&mut self, place: Place, depth: usize) -> Result<Id> {
        let (id, kind) = self.begin(place, depth)?;
        let content = match kind {
            Kind::Scalar => return Ok(id),
            Kind::FlowSequence => self.flow_sequence(depth)?,
            Kind::FlowMapping => self.flow_mapping(depth)?,
            Kind::BlockSequence => self.block_sequence(depth)?,
            Kind::IndentlessSequence => self.indentless_sequence(depth)?,
            Kind::BlockMapping => self.block_mapping(depth)?,
        };
        self.nodes[id].content = content;
        Ok(id)
    }

    /// A node, but for the members of a collection. Apart from [`node`](Self::node), so that nesting takes little of
    /// the stack.
    fn begin(&mut self, place: Place, depth: usize) -> Result<(Id, Kind)> {
        let allowed = self.limits.depth.min(MAX_DEPTH);
        // A scalar is no level.
        if depth > allowed + 1 {
            return Err(too_deep(allowed));
        }
        if let Token::Alias(_) = self.peek()? {
            let Token::Alias(name) = self.next()? else { return Err(self.unexpected("an alias")) };
            return match self.anchors.get(&name) {
                Some(id) => Ok((*id, Kind::Scalar)),
                None => Err(self.scanner.wrong(&format!("there is no anchor `{name}`"))),
            };
        }
        let (anchor, tag) = self.properties()?;
        if let Some(name) = &anchor
            && self.anchors.contains_key(name)
        {
            return Err(self.scanner.wrong(&format!("the anchor `{name}` is there twice")));
        }
        // What is tagged with `!` alone is resolved, too.
        let own = tag.as_deref().filter(|tag| *tag != "!").map(Tag::named);
        let kind = match self.peek()? {
            Token::Scalar { .. } => Kind::Scalar,
            Token::FlowSequenceStart => Kind::FlowSequence,
            Token::FlowMappingStart => Kind::FlowMapping,
            Token::BlockEntry if place == Place::BlockValue => Kind::IndentlessSequence,
            Token::BlockSequenceStart if place != Place::Flow => Kind::BlockSequence,
            Token::BlockMappingStart if place != Place::Flow => Kind::BlockMapping,
            _ if anchor.is_some() || tag.is_some() => {
                let id = self.add(own.unwrap_or(Tag::Null), Content::Scalar(Value::Text(String::new())))?;
                self.anchors.extend(anchor.map(|name| (name, id)));
                return Ok((id, Kind::Scalar));
            }
            _ => return Err(self.unexpected("a value")),
        };
        let (default, content) = match kind {
            Kind::Scalar => {
                let Token::Scalar { text, plain } = self.next()? else {
                    return Err(self.unexpected("a scalar"));
                };
                let default = match &text {
                    Value::Text(text) if plain || tag.is_some() => resolve(text),
                    _ => Tag::Str,
                };
                (default, Content::Scalar(text))
            }
            _ if depth > allowed => return Err(too_deep(allowed)),
            Kind::FlowMapping | Kind::BlockMapping => (Tag::Map, Content::Mapping(Vec::new())),
            _ => (Tag::Seq, Content::Sequence(Vec::new())),
        };
        let id = self.add(own.unwrap_or(default), content)?;
        self.anchors.extend(anchor.map(|name| (name, id)));
        Ok((id, kind))
    }

    fn properties(&mut self) -> Result<(Option<String>, Option<String>)> {
        let (mut anchor, mut tag) = (None, None);
        loop {
            match self.peek()? {
                Token::Anchor(_) if anchor.is_none() => {
                    let Token::Anchor(name) = self.next()? else { break };
                    anchor = Some(name);
                }
                Token::Tag { .. } if tag.is_none() => {
                    let Token::Tag { handle, suffix } = self.next()? else { break };
                    tag = Some(match handle {
                        None => suffix,
                        Some(handle) => match self.handles.get(&handle) {
                            Some(prefix) => format!("{prefix}{suffix}"),
                            None => {
                                return Err(self
                                    .scanner
                                    .wrong(&format!("there is no handle `{handle}` of tags")));
                            }
                        },
                    });
                }
                _ => break,
            }
        }
        Ok((anchor, tag))
    }

    fn block_sequence(&mut self, depth: usize) -> Result<Content> {
        self.next()?;
        let mut items = Vec::new();
        while self.takes(&Token::BlockEntry)? {
            items.push(match self.peek()? {
                Token::BlockEntry | Token::BlockEnd => self.empty()?,
                _ => self.node(Place::Block, depth + 1)?,
            });
        }
        if !self.takes(&Token::BlockEnd)? {
            return Err(self.unexpected("another entry of the sequence"));
        }
        Ok(Content::Sequence(items))
    }

    fn indentless_sequence(&mut self, depth: usize) -> Result<Content> {
        let mut items = Vec::new();
        while self.takes(&Token::BlockEntry)? {
            items.push(match self.peek()? {
                Token::BlockEntry | Token::Key | Token::Value | Token::BlockEnd => self.empty()?,
                _ => self.node(Place::Block, depth + 1)?,
            });
        }
        Ok(Content::Sequence(items))
    }

    fn block_mapping(&mut self, depth: usize) -> Result<Content> {
        self.next()?;
        let mut members = Vec::new();
        while self.takes(&Token::Key)? {
            let key = self.block_mapping_part(depth)?;
            let value =
                if self.takes(&Token::Value)? { self.block_mapping_part(depth)? } else { self.empty()? };
            members.push((key, value));
        }
        if !self.takes(&Token::BlockEnd)? {
            return Err(self.unexpected("another key of the mapping"));
        }
        Ok(Content::Mapping(members))
    }

    fn block_mapping_part(&mut self, depth: usize) -> Result<Id> {
        match self.peek()? {
            Token::Key | Token::Value | Token::BlockEnd => self.empty(),
            _ => self.node(Place::BlockValue, depth + 1),
        }
    }

    fn flow_sequence(&mut self, depth: usize) -> Result<Content> {
        self.next()?;
        let mut items = Vec::new();
        loop {
            if self.takes(&Token::FlowSequenceEnd)? {
                return Ok(Content::Sequence(items));
            }
            if !items.is_empty() {
                if !self.takes(&Token::FlowEntry)? {
                    return Err(self.unexpected("`,` or `]`"));
                }
                if self.takes(&Token::FlowSequenceEnd)? {
                    return Ok(Content::Sequence(items));
                }
            }
            let item = if self.takes(&Token::Key)? {
                self.single_pair(depth + 1)?
            } else {
                self.node(Place::Flow, depth + 1)?
            };
            items.push(item);
        }
    }

    /// `key: value` in a flow sequence: a mapping of one member.
    fn single_pair(&mut self, depth: usize) -> Result<Id> {
        let allowed = self.limits.depth.min(MAX_DEPTH);
        if depth > allowed {
            return Err(too_deep(allowed));
        }
        let id = self.add(Tag::Map, Content::Mapping(Vec::new()))?;
        let key = match self.peek()? {
            Token::Value | Token::FlowEntry | Token::FlowSequenceEnd => self.empty()?,
            _ => self.node(Place::Flow, depth + 1)?,
        };
        let value = if self.takes(&Token::Value)? {
            match self.peek()? {
                Token::FlowEntry | Token::FlowSequenceEnd => self.empty()?,
                _ => self.node(Place::Flow, depth + 1)?,
            }
        } else {
            self.empty()?
        };
        self.nodes[id].content = Content::Mapping(vec![(key, value)]);
        Ok(id)
    }

    fn flow_mapping(&mut self, depth: usize) -> Result<Content> {
        self.next()?;
        let mut members = Vec::new();
        loop {
            if self.takes(&Token::FlowMappingEnd)? {
                return Ok(Content::Mapping(members));
            }
            if !members.is_empty() {
                if !self.takes(&Token::FlowEntry)? {
                    return Err(self.unexpected("`,` or `}`"));
                }
                if self.takes(&Token::FlowMappingEnd)? {
                    return Ok(Content::Mapping(members));
                }
            }
            if !self.takes(&Token::Key)? {
                // A key alone.
                let key = self.node(Place::Flow, depth + 1)?;
                members.push((key, self.empty()?));
                continue;
            }
            let key = match self.peek()? {
                Token::Value | Token::FlowEntry | Token::FlowMappingEnd => self.empty()?,
                _ => self.node(Place::Flow, depth + 1)?,
            };
            let value = if self.takes(&Token::Value)? {
                match self.peek()? {
                    Token::FlowEntry | Token::FlowMappingEnd => self.empty()?,
                    _ => self.node(Place::Flow, depth + 1)?,
                }
            } else {
                self.empty()?
            };
            members.push((key, value));
        }
    }
}

fn too_deep(allowed: usize) -> Error {
    Error::LimitExceeded { limit: "depth", allowed, what: "the nesting".to_owned() }
}
