//! Characters to tokens, by the rules of YAML 1.1 as `PyYAML` has them.

use std::collections::VecDeque;

use celeriac_error::{Error, Result};

use crate::serialization::Value;
use crate::serialization::text::TextBuilder;

/// What the text consists of.
#[derive(Debug, PartialEq)]
pub(super) enum Token {
    StreamEnd,
    /// `%YAML 1.x`.
    Version {
        major: String,
    },
    /// `%TAG handle prefix`.
    TagDirective {
        handle: String,
        prefix: String,
    },
    /// Any other directive, which means nothing.
    OtherDirective,
    DocumentStart,
    DocumentEnd,
    BlockSequenceStart,
    BlockMappingStart,
    BlockEnd,
    FlowSequenceStart,
    FlowSequenceEnd,
    FlowMappingStart,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias(String),
    Anchor(String),
    Tag {
        handle: Option<String>,
        suffix: String,
    },
    Scalar {
        text: Value,
        plain: bool,
    },
}

/// Where something that may turn out to be a key began.
#[derive(Clone, Copy)]
struct SimpleKey {
    token: usize,
    required: bool,
    index: usize,
    line: usize,
    column: isize,
}

pub(super) struct Scanner<'a> {
    text: &'a str,
    /// Position in bytes.
    at: usize,
    /// Position in characters.
    index: usize,
    line: usize,
    column: isize,
    done: bool,
    tokens: VecDeque<Token>,
    taken: usize,
    indent: isize,
    indents: Vec<isize>,
    allow_simple_key: bool,
    /// One for each level of flow collections, the outermost (none) first.
    simple_keys: Vec<Option<SimpleKey>>,
}

/// What is read at the end of the text; it cannot occur in it.
const END: char = '\0';

/// How far a key may reach that is not marked as one.
const MAX_SIMPLE_KEY: usize = 1024;

fn is_break(character: char) -> bool {
    matches!(character, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_break_or_end(character: char) -> bool {
    character == END || is_break(character)
}

/// Nothing, a space or a break: what has to follow an indicator.
fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t') || is_break_or_end(character)
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_')
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            index: 0,
            line: 0,
            column: 0,
            done: false,
            tokens: VecDeque::new(),
            taken: 0,
            indent: -1,
            indents: Vec::new(),
            allow_simple_key: true,
            simple_keys: vec![None],
        }
    }

    /// The next token, which stays.
    pub(super) fn peek_token(&mut self) -> Result<&Token> {
        while self.needs_more()? {
            self.fetch()?;
        }
        self.tokens.front().ok_or_else(|| Error::Decode { reason: "no YAML: it ends too early".to_owned() })
    }

    /// Takes the next token.
    pub(super) fn next_token(&mut self) -> Result<Token> {
        self.peek_token()?;
        self.taken += 1;
        self.tokens
            .pop_front()
            .ok_or_else(|| Error::Decode { reason: "no YAML: it ends too early".to_owned() })
    }

    /// An error at this place.
    pub(super) fn wrong(&self, why: &str) -> Error {
        super::wrong(&format!("{why}, in line {}, column {}", self.line + 1, self.column + 1))
    }

    /// A token is certain only when nothing before it can become a key any more.
    fn needs_more(&mut self) -> Result<bool> {
        if self.done {
            return Ok(false);
        }
        if self.tokens.is_empty() {
            return Ok(true);
        }
        self.drop_stale_keys()?;
        Ok(self.simple_keys.iter().flatten().map(|key| key.token).min() == Some(self.taken))
    }

    // Characters.

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> char {
        self.rest().chars().next().unwrap_or(END)
    }

    fn peek_at(&self, offset: usize) -> char {
        self.rest().chars().nth(offset).unwrap_or(END)
    }

    fn forward(&mut self) {
        let Some(character) = self.rest().chars().next() else { return };
        self.at += character.len_utf8();
        self.index += 1;
        if matches!(character, '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
            || (character == '\r' && self.peek() != '\n')
        {
            self.line += 1;
            self.column = 0;
        } else if character != '\u{feff}' {
            self.column += 1;
        }
    }

    fn forward_by(&mut self, count: usize) {
        for _ in 0..count {
            self.forward();
        }
    }

    /// Takes what fulfils a condition.
    fn take_while(&mut self, mut condition: impl FnMut(char) -> bool) -> &'a str {
        let start = self.at;
        while self.at < self.text.len() && condition(self.peek()) {
            self.forward();
        }
        &self.text[start..self.at]
    }

    /// Takes a line break, if there is one: a line feed, or one of the breaks that stay themselves.
    fn take_break(&mut self) -> Option<char> {
        match self.peek() {
            '\r' | '\n' | '\u{85}' => {
                if self.rest().starts_with("\r\n") {
                    self.forward();
                }
                self.forward();
                Some('\n')
            }
            character @ ('\u{2028}' | '\u{2029}') => {
                self.forward();
                Some(character)
            }
            _ => None,
        }
    }

    fn at_document_marker(&self) -> bool {
        let rest = self.rest();
        (rest.starts_with("---") || rest.starts_with("...")) && is_blank(self.peek_at(3))
    }

    // Keys without a `?`, and indentation.

    fn in_flow(&self) -> bool {
        self.simple_keys.len() > 1
    }

    fn drop_stale_keys(&mut self) -> Result<()> {
        for level in 0..self.simple_keys.len() {
            if let Some(key) = self.simple_keys[level]
                && (key.line != self.line || self.index - key.index > MAX_SIMPLE_KEY)
            {
                if key.required {
                    return Err(self.wrong("a key is not followed by `:`"));
                }
                self.simple_keys[level] = None;
            }
        }
        Ok(())
    }

    fn save_key(&mut self) -> Result<()> {
        let required = !self.in_flow() && self.indent == self.column;
        if self.allow_simple_key {
            self.remove_key()?;
            let key = SimpleKey {
                token: self.taken + self.tokens.len(),
                required,
                index: self.index,
                line: self.line,
                column: self.column,
            };
            if let Some(place) = self.simple_keys.last_mut() {
                *place = Some(key);
            }
        }
        Ok(())
    }

    fn remove_key(&mut self) -> Result<()> {
        match self.simple_keys.last_mut().and_then(Option::take) {
            Some(key) if key.required => Err(self.wrong("a key is not followed by `:`")),
            _ => Ok(()),
        }
    }

    fn unwind(&mut self, column: isize) {
        if self.in_flow() {
            return;
        }
        while self.indent > column {
            self.indent = self.indents.pop().unwrap_or(-1);
            self.tokens.push_back(Token::BlockEnd);
        }
    }

    /// Whether a block collection begins.
    fn indent_to(&mut self, column: isize) -> bool {
        if self.indent >= column {
            return false;
        }
        self.indents.push(self.indent);
        self.indent = column;
        true
    }

    // Tokens.

    fn fetch(&mut self) -> Result<()> {
        self.skip_to_token();
        self.drop_stale_keys()?;
        self.unwind(self.column);
        let character = self.peek();
        let followed_by_blank = is_blank(self.peek_at(1));
        let in_flow = self.in_flow();
        match character {
            END => self.fetch_end(),
            '%' if self.column == 0 => self.fetch_directive(),
            '-' | '.' if self.column == 0 && self.at_document_marker() => {
                self.leave_blocks()?;
                self.forward_by(3);
                self.tokens.push_back(if character == '-' {
                    Token::DocumentStart
                } else {
                    Token::DocumentEnd
                });
                Ok(())
            }
            '[' | '{' => {
                self.save_key()?;
                self.simple_keys.push(None);
                self.allow_simple_key = true;
                self.indicator(if character == '[' {
                    Token::FlowSequenceStart
                } else {
                    Token::FlowMappingStart
                });
                Ok(())
            }
            ']' | '}' => {
                self.remove_key()?;
                // One too many is the parser's to refuse.
                if in_flow {
                    self.simple_keys.pop();
                }
                self.allow_simple_key = false;
                self.indicator(if character == ']' { Token::FlowSequenceEnd } else { Token::FlowMappingEnd });
                Ok(())
            }
            ',' => {
                self.allow_simple_key = true;
                self.remove_key()?;
                self.indicator(Token::FlowEntry);
                Ok(())
            }
            '-' if followed_by_blank => self.fetch_block_entry(),
            '?' if in_flow || followed_by_blank => self.fetch_key(),
            ':' if in_flow || followed_by_blank => self.fetch_value(),
            '*' | '&' => {
                self.save_key()?;
                self.allow_simple_key = false;
                let token = self.scan_anchor(character)?;
                self.tokens.push_back(token);
                Ok(())
            }
            '!' => {
                self.save_key()?;
                self.allow_simple_key = false;
                let token = self.scan_tag()?;
                self.tokens.push_back(token);
                Ok(())
            }
            '|' | '>' if !in_flow => {
                self.allow_simple_key = true;
                self.remove_key()?;
                let token = self.scan_block_scalar(character == '>')?;
                self.tokens.push_back(token);
                Ok(())
            }
            '\'' | '"' => {
                self.save_key()?;
                self.allow_simple_key = false;
                let token = self.scan_quoted(character)?;
                self.tokens.push_back(token);
                Ok(())
            }
            _ if self.begins_plain(character, followed_by_blank) => {
                self.save_key()?;
                self.allow_simple_key = false;
                let token = self.scan_plain();
                self.tokens.push_back(token);
                Ok(())
            }
            _ => Err(self.wrong(&format!("nothing begins with {character:?}"))),
        }
    }

    fn begins_plain(&self, character: char, followed_by_blank: bool) -> bool {
        if !is_blank(character) && !"-?:,[]{}#&*!|>'\"%@`".contains(character) {
            return true;
        }
        !followed_by_blank && (character == '-' || (!self.in_flow() && matches!(character, '?' | ':')))
    }

    fn indicator(&mut self, token: Token) {
        self.forward();
        self.tokens.push_back(token);
    }

    fn skip_to_token(&mut self) {
        if self.index == 0 && self.peek() == '\u{feff}' {
            self.forward();
        }
        loop {
            self.take_while(|character| character == ' ');
            if self.peek() == '#' {
                self.take_while(|character| !is_break(character));
            }
            if self.take_break().is_none() {
                return;
            }
            if !self.in_flow() {
                self.allow_simple_key = true;
            }
        }
    }

    fn leave_blocks(&mut self) -> Result<()> {
        self.unwind(-1);
        self.remove_key()?;
        self.allow_simple_key = false;
        Ok(())
    }

    fn fetch_end(&mut self) -> Result<()> {
        self.leave_blocks()?;
        self.simple_keys = vec![None];
        self.tokens.push_back(Token::StreamEnd);
        self.done = true;
        Ok(())
    }

    fn block_start(&mut self, token: Token, what: &str) -> Result<()> {
        if self.in_flow() {
            return Ok(());
        }
        if !self.allow_simple_key {
            return Err(self.wrong(&format!("{what} is not allowed here")));
        }
        if self.indent_to(self.column) {
            self.tokens.push_back(token);
        }
        Ok(())
    }

    fn fetch_block_entry(&mut self) -> Result<()> {
        self.block_start(Token::BlockSequenceStart, "an entry of a sequence")?;
        self.allow_simple_key = true;
        self.remove_key()?;
        self.indicator(Token::BlockEntry);
        Ok(())
    }

    fn fetch_key(&mut self) -> Result<()> {
        self.block_start(Token::BlockMappingStart, "a key of a mapping")?;
        self.allow_simple_key = !self.in_flow();
        self.remove_key()?;
        self.indicator(Token::Key);
        Ok(())
    }

    fn fetch_value(&mut self) -> Result<()> {
        if let Some(key) = self.simple_keys.last_mut().and_then(Option::take) {
            let place = key.token - self.taken;
            self.tokens.insert(place, Token::Key);
            if !self.in_flow() && self.indent_to(key.column) {
                self.tokens.insert(place, Token::BlockMappingStart);
            }
            self.allow_simple_key = false;
        } else {
            self.block_start(Token::BlockMappingStart, "a value of a mapping")?;
            self.allow_simple_key = !self.in_flow();
            self.remove_key()?;
        }
        self.indicator(Token::Value);
        Ok(())
    }

    // Directives, anchors and tags.

    fn fetch_directive(&mut self) -> Result<()> {
        self.leave_blocks()?;
        self.forward();
        let name = self.take_while(is_word);
        if name.is_empty() || !(self.peek() == ' ' || is_break_or_end(self.peek())) {
            return Err(self.wrong("a directive has no name"));
        }
        let token = match name {
            "YAML" => self.scan_version()?,
            "TAG" => self.scan_tag_directive()?,
            _ => {
                self.take_while(|character| !is_break(character));
                Token::OtherDirective
            }
        };
        self.end_of_line("a directive")?;
        self.tokens.push_back(token);
        Ok(())
    }

    fn end_of_line(&mut self, what: &str) -> Result<()> {
        self.take_while(|character| character == ' ');
        if self.peek() == '#' {
            self.take_while(|character| !is_break(character));
        }
        if !is_break_or_end(self.peek()) {
            return Err(self.wrong(&format!("more follows {what}")));
        }
        self.take_break();
        Ok(())
    }

    fn scan_version(&mut self) -> Result<Token> {
        self.take_while(|character| character == ' ');
        let major = self.take_while(|character| character.is_ascii_digit()).to_owned();
        let dot = self.peek() == '.';
        self.forward();
        let minor = self.take_while(|character| character.is_ascii_digit());
        let ends = self.peek() == ' ' || is_break_or_end(self.peek());
        if major.is_empty() || !dot || minor.is_empty() || !ends {
            return Err(self.wrong("a version is two numbers"));
        }
        Ok(Token::Version { major })
    }

    fn scan_tag_directive(&mut self) -> Result<Token> {
        self.take_while(|character| character == ' ');
        let handle = self.scan_tag_handle()?;
        if self.peek() != ' ' {
            return Err(self.wrong("a handle of a tag has no prefix"));
        }
        self.take_while(|character| character == ' ');
        let prefix = self.scan_uri()?;
        if !(self.peek() == ' ' || is_break_or_end(self.peek())) {
            return Err(self.wrong("more follows the prefix of a tag"));
        }
        Ok(Token::TagDirective { handle, prefix })
    }

    fn scan_anchor(&mut self, indicator: char) -> Result<Token> {
        self.forward();
        let name = self.take_while(is_word).to_owned();
        if name.is_empty() || !(is_blank(self.peek()) || "?:,]}%@`".contains(self.peek())) {
            return Err(self.wrong("an anchor or alias has no name"));
        }
        Ok(if indicator == '*' { Token::Alias(name) } else { Token::Anchor(name) })
    }

    fn scan_tag(&mut self) -> Result<Token> {
        let second = self.peek_at(1);
        let token = if second == '<' {
            self.forward_by(2);
            let suffix = self.scan_uri()?;
            if self.peek() != '>' {
                return Err(self.wrong("a tag is not closed"));
            }
            self.forward();
            Token::Tag { handle: None, suffix }
        } else if is_blank(second) {
            self.forward();
            Token::Tag { handle: None, suffix: "!".to_owned() }
        } else {
            let word = self.rest()[1..].split([' ', '\r', '\n', '\u{85}', '\u{2028}', '\u{2029}']).next();
            let handle = if word.is_some_and(|word| word.contains('!')) {
                self.scan_tag_handle()?
            } else {
                self.forward();
                "!".to_owned()
            };
            Token::Tag { handle: Some(handle), suffix: self.scan_uri()? }
        };
        if !(self.peek() == ' ' || is_break_or_end(self.peek())) {
            return Err(self.wrong("more follows a tag"));
        }
        Ok(token)
    }

    /// `!`, `!!` or `!name!`.
    fn scan_tag_handle(&mut self) -> Result<String> {
        let start = self.at;
        if self.peek() != '!' {
            return Err(self.wrong("a handle of a tag begins with `!`"));
        }
        self.forward();
        if self.peek() != ' ' {
            self.take_while(is_word);
            if self.peek() != '!' {
                return Err(self.wrong("a handle of a tag ends with `!`"));
            }
            self.forward();
        }
        Ok(self.text[start..self.at].to_owned())
    }

    fn scan_uri(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            let part =
                self.take_while(|character| is_word(character) || ";/?:@&=+$,_.!~*'()[]".contains(character));
            bytes.extend_from_slice(part.as_bytes());
            if self.peek() != '%' {
                break;
            }
            self.forward();
            let digits = self.rest().get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(digits.ok_or_else(|| self.wrong("an escape in a tag has two hexadecimal digits"))?);
            self.forward_by(2);
        }
        match String::from_utf8(bytes) {
            Ok(uri) if !uri.is_empty() => Ok(uri),
            _ => Err(self.wrong("a tag has no name")),
        }
    }

    // Scalars.

    fn scan_block_scalar(&mut self, folded: bool) -> Result<Token> {
        self.forward();
        let (keep, increment) = self.scan_block_header()?;
        self.end_of_line("the header of a block")?;
        let least = (self.indent + 1).max(1);
        let mut breaks = String::new();
        let indent = if let Some(increment) = increment {
            self.take_breaks(least + increment - 1, &mut breaks);
            least + increment - 1
        } else {
            least.max(self.scan_indentation(&mut breaks))
        };
        let mut text = String::new();
        let mut line_break = None;
        while self.column == indent && self.peek() != END {
            text.push_str(&breaks);
            breaks.clear();
            let leading_space = matches!(self.peek(), ' ' | '\t');
            text.push_str(self.take_while(|character| !is_break(character)));
            line_break = self.take_break();
            self.take_breaks(indent, &mut breaks);
            if self.column != indent || self.peek() == END {
                break;
            }
            if folded && line_break == Some('\n') && !leading_space && !matches!(self.peek(), ' ' | '\t') {
                if breaks.is_empty() {
                    text.push(' ');
                }
            } else {
                text.extend(line_break);
            }
        }
        if keep != Some(false) {
            text.extend(line_break);
        }
        if keep == Some(true) {
            text.push_str(&breaks);
        }
        Ok(Token::Scalar { text: Value::Text(text), plain: false })
    }

    /// Whether the breaks at the end stay, and the indentation, as far as they are said.
    fn scan_block_header(&mut self) -> Result<(Option<bool>, Option<isize>)> {
        let (mut keep, mut increment) = (None, None);
        for _ in 0..2 {
            match self.peek() {
                character @ ('+' | '-') if keep.is_none() => keep = Some(character == '+'),
                character @ '1'..='9' if increment.is_none() => {
                    increment = character.to_digit(10).and_then(|digit| isize::try_from(digit).ok());
                }
                _ => break,
            }
            self.forward();
        }
        if self.peek() == ' ' || is_break_or_end(self.peek()) {
            return Ok((keep, increment));
        }
        Err(self.wrong("the header of a block is not understood"))
    }

    /// Empty lines before the first line; how far the widest of them is indented.
    fn scan_indentation(&mut self, breaks: &mut String) -> isize {
        let mut most = 0;
        loop {
            if let Some(line_break) = self.take_break() {
                breaks.push(line_break);
            } else if self.peek() == ' ' {
                self.forward();
                most = most.max(self.column);
            } else {
                return most;
            }
        }
    }

    fn take_breaks(&mut self, indent: isize, breaks: &mut String) {
        loop {
            while self.column < indent && self.peek() == ' ' {
                self.forward();
            }
            match self.take_break() {
                Some(line_break) => breaks.push(line_break),
                None => return,
            }
        }
    }

    fn scan_quoted(&mut self, quote: char) -> Result<Token> {
        let mut text = TextBuilder::default();
        self.forward();
        self.scan_quoted_words(quote, &mut text)?;
        while self.peek() != quote {
            self.scan_quoted_spaces(&mut text)?;
            self.scan_quoted_words(quote, &mut text)?;
        }
        self.forward();
        Ok(Token::Scalar { text: text.finish(), plain: false })
    }

    fn scan_quoted_words(&mut self, quote: char, text: &mut TextBuilder) -> Result<()> {
        let double = quote == '"';
        loop {
            text.push_str(
                self.take_while(|character| !is_blank(character) && !matches!(character, '\'' | '"' | '\\')),
            );
            match self.peek() {
                '\'' if !double && self.peek_at(1) == '\'' => {
                    text.push('\'');
                    self.forward_by(2);
                }
                '\'' if double => {
                    text.push('\'');
                    self.forward();
                }
                character @ ('"' | '\\') if !double => {
                    text.push(character);
                    self.forward();
                }
                '\\' => {
                    self.forward();
                    self.scan_escape(text)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn scan_escape(&mut self, text: &mut TextBuilder) -> Result<()> {
        let character = self.peek();
        let digits = match character {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ if is_break(character) => {
                self.take_break();
                return self.scan_quoted_breaks(text).map(drop);
            }
            _ => {
                text.push(match character {
                    '0' => '\0',
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    't' | '\t' => '\t',
                    'n' => '\n',
                    'v' => '\u{b}',
                    'f' => '\u{c}',
                    'r' => '\r',
                    'e' => '\u{1b}',
                    ' ' | '"' | '\\' | '/' => character,
                    'N' => '\u{85}',
                    '_' => '\u{a0}',
                    'L' => '\u{2028}',
                    'P' => '\u{2029}',
                    _ => return Err(self.wrong("there is no such escape")),
                });
                self.forward();
                return Ok(());
            }
        };
        self.forward();
        let code = self
            .rest()
            .get(..digits)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        if !code.is_some_and(|code| text.push_code(code)) {
            return Err(self.wrong("an escape is no character"));
        }
        self.forward_by(digits);
        Ok(())
    }

    fn scan_quoted_spaces(&mut self, text: &mut TextBuilder) -> Result<()> {
        let spaces = self.take_while(|character| matches!(character, ' ' | '\t'));
        if self.peek() == END {
            return Err(self.wrong("a quoted text is not closed"));
        }
        let Some(line_break) = self.take_break() else {
            text.push_str(spaces);
            return Ok(());
        };
        if line_break != '\n' {
            text.push(line_break);
            self.scan_quoted_breaks(text)?;
        } else if !self.scan_quoted_breaks(text)? {
            text.push(' ');
        }
        Ok(())
    }

    /// Empty lines in a quoted text; whether there were any.
    fn scan_quoted_breaks(&mut self, text: &mut TextBuilder) -> Result<bool> {
        let mut any = false;
        loop {
            if self.at_document_marker() {
                return Err(self.wrong("a document ends inside of a quoted text"));
            }
            self.take_while(|character| matches!(character, ' ' | '\t'));
            match self.take_break() {
                Some(line_break) => {
                    text.push(line_break);
                    any = true;
                }
                None => return Ok(any),
            }
        }
    }

    fn scan_plain(&mut self) -> Token {
        let mut text = String::new();
        let indent = self.indent + 1;
        let mut spaces = String::new();
        let in_flow = self.in_flow();
        loop {
            if self.peek() == '#' {
                break;
            }
            let start = self.at;
            loop {
                let character = self.peek();
                let ends = match character {
                    ':' => {
                        let next = self.peek_at(1);
                        is_blank(next) || (in_flow && matches!(next, ',' | '[' | ']' | '{' | '}'))
                    }
                    ',' | '?' | '[' | ']' | '{' | '}' => in_flow,
                    _ => is_blank(character),
                };
                if ends {
                    break;
                }
                self.forward();
            }
            if self.at == start {
                break;
            }
            self.allow_simple_key = false;
            text.push_str(&spaces);
            text.push_str(&self.text[start..self.at]);
            spaces.clear();
            let goes_on = self.scan_plain_spaces(&mut spaces);
            if !goes_on || self.peek() == '#' || (!in_flow && self.column < indent) {
                break;
            }
        }
        Token::Scalar { text: Value::Text(text), plain: true }
    }

    /// What lies between two words; false when the text ends there.
    fn scan_plain_spaces(&mut self, out: &mut String) -> bool {
        let spaces = self.take_while(|character| character == ' ');
        let Some(line_break) = self.take_break() else {
            out.push_str(spaces);
            return !spaces.is_empty();
        };
        self.allow_simple_key = true;
        if self.at_document_marker() {
            return false;
        }
        let mut breaks = String::new();
        loop {
            if self.peek() == ' ' {
                self.forward();
            } else if let Some(line_break) = self.take_break() {
                breaks.push(line_break);
                if self.at_document_marker() {
                    return false;
                }
            } else {
                break;
            }
        }
        if line_break != '\n' {
            out.push(line_break);
        } else if breaks.is_empty() {
            out.push(' ');
        }
        out.push_str(&breaks);
        true
    }
}
