//! The parser's events to a graph of nodes, in which an alias is the node that it names.

use std::collections::HashMap;

use celeriac_error::{Error, Result};
use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, options};

use super::resolve::{Tag, resolve};
use super::wrong;
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
    let depth = limits.depth.min(MAX_DEPTH);
    let options = options! {
        emit_comments: false,
        flow_nesting_limit: depth + 1,
        block_nesting_limit: depth + 1,
    };
    let mut graph =
        Graph { limits, depth, nodes: Vec::new(), anchors: HashMap::new(), open: Vec::new(), root: None };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, _) = event.map_err(|error| refusal(&error, depth))?;
        graph.add(event)?;
    }
    Ok(graph.root.map(|root| Document { nodes: graph.nodes, root }))
}

fn refusal(error: &ScanError, allowed: usize) -> Error {
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => too_deep(allowed),
        _ => wrong(&error.to_string()),
    }
}

fn too_deep(allowed: usize) -> Error {
    Error::LimitExceeded { limit: "depth", allowed, what: "the nesting".to_owned() }
}

/// A collection whose end has not come.
struct Open {
    id: Id,
    /// The key of a mapping, whose value has not come.
    key: Option<Id>,
}

struct Graph<'a> {
    limits: &'a Limits,
    depth: usize,
    nodes: Vec<Node>,
    anchors: HashMap<usize, Id>,
    open: Vec<Open>,
    root: Option<Id>,
}

impl Graph<'_> {
    fn add(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let named = tag.as_deref().and_then(named);
                // What is tagged with `!` alone is resolved, too.
                let default =
                    if style == ScalarStyle::Plain || tag.is_some() { resolve(&text) } else { Tag::Str };
                let content = Content::Scalar(Value::Text(text.into_owned()));
                let id = self.node(named.unwrap_or(default), content, anchor)?;
                self.place(id)
            }
            Event::SequenceStart(_, anchor, tag) => self.begin(
                tag.as_deref().and_then(named).unwrap_or(Tag::Seq),
                Content::Sequence(Vec::new()),
                anchor,
            ),
            Event::MappingStart(_, anchor, tag) => self.begin(
                tag.as_deref().and_then(named).unwrap_or(Tag::Map),
                Content::Mapping(Vec::new()),
                anchor,
            ),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.place(open.id),
                None => Err(wrong("something ends that has not begun")),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(id) => self.place(*id),
                None => Err(wrong("an alias names no anchor")),
            },
            Event::DocumentStart(_, version) => {
                if self.root.is_some() {
                    return Err(wrong("there is to be one document"));
                }
                match version {
                    Some(version) if version.major != 1 => Err(wrong("its version is not 1.x")),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, tag: Tag, content: Content, anchor: usize) -> Result<()> {
        if self.open.len() > self.depth {
            return Err(too_deep(self.depth));
        }
        let id = self.node(tag, content, anchor)?;
        self.open.push(Open { id, key: None });
        Ok(())
    }

    fn node(&mut self, tag: Tag, content: Content, anchor: usize) -> Result<Id> {
        if self.nodes.len() >= self.limits.values {
            let what = "the number of nodes".to_owned();
            return Err(Error::LimitExceeded { limit: "values", allowed: self.limits.values, what });
        }
        self.nodes.push(Node { tag, content });
        let id = self.nodes.len() - 1;
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        Ok(id)
    }

    /// Puts a complete node where it belongs.
    fn place(&mut self, id: Id) -> Result<()> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(id);
            return Ok(());
        };
        match &mut self.nodes[open.id].content {
            Content::Sequence(items) => items.push(id),
            Content::Mapping(members) => match open.key.take() {
                None => open.key = Some(id),
                Some(key) => members.push((key, id)),
            },
            Content::Scalar(_) => return Err(wrong("a scalar has no members")),
        }
        Ok(())
    }
}

/// The meaning of a tag that says more than `!`.
fn named(tag: &granit_parser::Tag) -> Option<Tag> {
    let name = tag.to_string();
    (name != "!").then(|| Tag::named(&name))
}
