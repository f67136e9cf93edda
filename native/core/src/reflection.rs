//! Server reflection: what is offered here, from the serialized descriptors of the messages themselves.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::decode::{Fields, Malformed, Span, Value};
use crate::encode::Writer;
use crate::refusal::Refusal;
use crate::texts::{Fact, Name, Texts};

/// Characters of what is not here that an answer repeats.
const SHOWN_CHARACTERS: usize = 256;

/// A descriptor that was handed in is none, or imports what was not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a descriptor for reflection cannot be read: {0}")]
pub struct DescriptorError(String);

/// Answers reflection requests. v1 and v1alpha have the same messages.
#[derive(Debug)]
pub struct Reflection {
    services: Vec<String>,
    files: Vec<File>,
    by_name: HashMap<String, usize>,
    by_symbol: HashMap<String, usize>,
    texts: Arc<Texts>,
}

#[derive(Debug, Default)]
struct File {
    descriptor: Bytes,
    name: String,
    package: String,
    imports: Vec<String>,
    symbols: Vec<String>,
}

/// What a request asks for; every text is a part of the message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Question {
    Nothing,
    FileByName(Span),
    FileOfSymbol(Span),
    Extension(Span),
    ExtensionsOf(Span),
    Services,
}

impl Reflection {
    /// Describes these services from serialized `FileDescriptorProto`s, which must hold all that they import.
    pub fn new(
        services: impl IntoIterator<Item = String>,
        descriptors: impl IntoIterator<Item = Bytes>,
        texts: Arc<Texts>,
    ) -> Result<Self, DescriptorError> {
        let mut services: Vec<_> = services.into_iter().collect();
        services.sort_unstable();
        let (mut files, mut by_name, mut by_symbol) = (Vec::new(), HashMap::new(), HashMap::new());
        for (index, descriptor) in descriptors.into_iter().enumerate() {
            let file =
                File::read(descriptor).map_err(|Malformed| DescriptorError(format!("number {index}")))?;
            by_symbol.extend(file.symbols.iter().map(|symbol| (symbol.clone(), index)));
            by_name.insert(file.name.clone(), index);
            files.push(file);
        }
        if let Some(import) = files
            .iter()
            .flat_map(|file| &file.imports)
            .find(|name| !by_name.contains_key(*name))
        {
            return Err(DescriptorError(format!("{import} is imported and missing")));
        }
        Ok(Self {
            services,
            files,
            by_name,
            by_symbol,
            texts,
        })
    }

    /// Answers one ServerReflectionRequest.
    pub fn answer(&self, message: &[u8]) -> Result<Bytes, Refusal> {
        let malformed = |Malformed| {
            let facts = [("message", "ServerReflectionRequest".into())];
            self.texts.refuse(Name::Malformed, "", &facts)
        };
        let (host, question) = ask(message).map_err(malformed)?;
        let text = |span: Span| std::str::from_utf8(&message[span.range()]).unwrap_or_default();
        let mut answer = Writer::default();
        answer.text(1, text(host));
        // The request itself: as equal to what was asked as can be.
        answer.bytes_always(2, message);
        match question {
            Question::Services => answer.message(6, |list| {
                for name in &self.services {
                    list.message(1, |service| service.text(1, name));
                }
            }),
            Question::FileByName(name) => {
                self.describe(&mut answer, self.by_name.get(text(name)), text(name))
            }
            Question::FileOfSymbol(name) => {
                self.describe(&mut answer, self.by_symbol.get(text(name)), text(name))
            }
            Question::Extension(of) => self.describe(&mut answer, None, text(of)),
            Question::ExtensionsOf(name) => answer.message(5, |numbers| numbers.text(1, text(name))),
            Question::Nothing => self.error(&mut answer, Name::ReflectionNothing, &[]),
        }
        Ok(answer.0.into())
    }

    fn describe(&self, answer: &mut Writer, file: Option<&usize>, what: &str) {
        let Some(file) = file else {
            let shown: String = what.chars().take(SHOWN_CHARACTERS).collect();
            return self.error(answer, Name::ReflectionUnknown, &[("what", (&shown).into())]);
        };
        let mut needed = Vec::new();
        self.add_needed(*file, &mut needed);
        answer.message(4, |described| {
            needed
                .iter()
                .for_each(|file| described.bytes_always(1, &self.files[*file].descriptor));
        });
    }

    fn error(&self, answer: &mut Writer, text: Name, facts: &[(&str, Fact<'_>)]) {
        answer.message(7, |error| {
            error.integer(1, u64::from(self.texts.code(text).unsigned_abs()));
            error.text(2, &self.texts.fill(text, facts));
        });
    }

    /// The file and all that it imports, each once, the importing one first.
    fn add_needed(&self, file: usize, needed: &mut Vec<usize>) {
        if needed.contains(&file) {
            return;
        }
        needed.push(file);
        for import in self.files[file]
            .imports
            .iter()
            .filter_map(|name| self.by_name.get(name))
        {
            self.add_needed(*import, needed);
        }
    }
}

impl File {
    fn read(descriptor: Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::new(&descriptor)?;
        let mut file = Self::default();
        let (mut messages, mut enums, mut services) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(field) = fields.next()? {
            let Value::Delimited(span) = field.1 else { continue };
            match field.0 {
                1 => file.name = string(&fields, span)?,
                2 => file.package = string(&fields, span)?,
                3 => file.imports.push(string(&fields, span)?),
                4 => messages.push(span),
                5 => enums.push(span),
                6 => services.push(span),
                _ => {}
            }
        }
        let package = std::mem::take(&mut file.package);
        let mut symbols = Symbols(Vec::new());
        for span in messages {
            symbols.add_message(&fields, span, &package)?;
        }
        for span in enums {
            symbols.add_enum(&fields, span, &package)?;
        }
        for span in services {
            let name = symbols.add(&fields, span, &package)?;
            symbols.add_members(&fields, span, &[2], &name)?;
        }
        file.symbols = symbols.0;
        file.descriptor = descriptor.clone();
        Ok(file)
    }
}

/// Full names of what a file defines.
struct Symbols(Vec<String>);

impl Symbols {
    /// Adds what has its name in field 1; returns its full name.
    fn add(&mut self, fields: &Fields<'_>, span: Span, scope: &str) -> Result<String, Malformed> {
        let mut fields = fields.within(span);
        let mut name = String::new();
        while let Some(field) = fields.next()? {
            if let (1, Value::Delimited(span)) = field {
                name = string(&fields, span)?;
            }
        }
        let name = if scope.is_empty() {
            name
        } else {
            format!("{scope}.{name}")
        };
        self.0.push(name.clone());
        Ok(name)
    }

    /// Adds what some fields of a definition hold.
    fn add_members(
        &mut self,
        fields: &Fields<'_>,
        span: Span,
        numbers: &[u32],
        scope: &str,
    ) -> Result<(), Malformed> {
        let mut fields = fields.within(span);
        while let Some((number, value)) = fields.next()? {
            if let (true, Value::Delimited(span)) = (numbers.contains(&number), value) {
                self.add(&fields, span, scope)?;
            }
        }
        Ok(())
    }

    /// Values stand beside their enum, not in it.
    fn add_enum(&mut self, fields: &Fields<'_>, span: Span, scope: &str) -> Result<(), Malformed> {
        self.add(fields, span, scope)?;
        self.add_members(fields, span, &[2], scope)
    }

    /// A message, its fields and oneofs, and what is nested in it.
    fn add_message(&mut self, fields: &Fields<'_>, span: Span, scope: &str) -> Result<(), Malformed> {
        let name = self.add(fields, span, scope)?;
        self.add_members(fields, span, &[2, 8], &name)?;
        let mut fields = fields.within(span);
        while let Some(field) = fields.next()? {
            match field {
                (3, Value::Delimited(span)) => self.add_message(&fields, span, &name)?,
                (4, Value::Delimited(span)) => self.add_enum(&fields, span, &name)?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn string(fields: &Fields<'_>, span: Span) -> Result<String, Malformed> {
    std::str::from_utf8(fields.bytes(span))
        .map(str::to_owned)
        .map_err(|_| Malformed)
}

/// The host and the question of a request.
fn ask(message: &[u8]) -> Result<(Span, Question), Malformed> {
    let mut fields = Fields::new(message)?;
    let (mut host, mut question) = (Span::default(), Question::Nothing);
    while let Some((number, value)) = fields.next()? {
        let Value::Delimited(span) = value else { continue };
        question = match number {
            1 => {
                host = fields.text(span)?;
                question
            }
            3 => Question::FileByName(fields.text(span)?),
            4 => Question::FileOfSymbol(fields.text(span)?),
            5 => Question::Extension(containing_type(fields.within(span), question)?),
            6 => Question::ExtensionsOf(fields.text(span)?),
            7 => {
                fields.text(span)?;
                Question::Services
            }
            _ => question,
        };
    }
    Ok((host, question))
}

/// The message that an extension is asked of; parts of one question are merged.
fn containing_type(mut fields: Fields<'_>, before: Question) -> Result<Span, Malformed> {
    let mut containing = if let Question::Extension(span) = before {
        span
    } else {
        Span::default()
    };
    while let Some(field) = fields.next()? {
        if let (1, Value::Delimited(span)) = field {
            containing = fields.text(span)?;
        }
    }
    Ok(containing)
}
