//! From the machine's graph of objects to a value: a tree, so what is shared is there more than once.

use celeriac_error::Result;

use super::classes;
use super::machine::{Id, Instance, Object, wrong};
use crate::serialization::containers::{DictBuilder, SetBuilder};
use crate::serialization::limits::Budget;
use crate::serialization::{Opaque, Value};

pub(super) fn build(objects: Vec<Object>, root: Id, budget: &mut Budget) -> Result<Value> {
    let in_progress = vec![false; objects.len()];
    let uses = count_uses(&objects);
    Builder { objects, uses, in_progress, budget }.value(root, 0, true)
}

/// How often each object is a part of others.
fn count_uses(objects: &[Object]) -> Vec<u32> {
    let mut uses = vec![0_u32; objects.len()];
    let mut count = |id: &Id| {
        if let Some(uses) = uses.get_mut(*id as usize) {
            *uses = uses.saturating_add(1);
        }
    };
    for object in objects {
        match object {
            Object::Plain(_) | Object::Name(_) => {}
            Object::List(ids) | Object::Tuple(ids) | Object::Set(ids) | Object::FrozenSet(ids) => {
                ids.iter().for_each(&mut count);
            }
            Object::Dict(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).for_each(&mut count),
            Object::Instance(instance) => {
                let pairs = instance.kwargs.iter().chain(&instance.entries);
                let parts = instance.args.iter().chain(&instance.items).chain(&instance.state);
                parts.chain(pairs.flat_map(|(key, value)| [key, value])).for_each(&mut count);
            }
        }
    }
    uses
}

struct Builder<'a> {
    objects: Vec<Object>,
    uses: Vec<u32>,
    in_progress: Vec<bool>,
    budget: &'a mut Budget,
}

impl Builder<'_> {
    /// The value of an object. With `once` what it is a part of is made once only, so that it may be moved when it is
    /// not a part of something else.
    fn value(&mut self, id: Id, depth: usize, once: bool) -> Result<Value> {
        self.budget.value()?;
        let at = id as usize;
        if self.in_progress.get(at) == Some(&true) {
            return Err(wrong("its data is cyclic: something contains itself"));
        }
        let once = once && self.uses.get(at).is_some_and(|uses| *uses <= 1);
        let object = self.objects.get_mut(at).ok_or_else(|| wrong("the stack is empty"))?;
        if let Object::Plain(value) = object {
            self.budget.bytes(match value {
                Value::Text(text) => text.len(),
                Value::Utf16(units) => units.len() * 2,
                Value::Bytes(bytes) => bytes.len(),
                _ => 0,
            })?;
            return Ok(if once { std::mem::replace(value, Value::None) } else { value.clone() });
        }
        if let Object::Name(name) = object {
            self.budget.bytes(name.module.len() + name.name.len())?;
            return Ok(Value::Opaque(Box::new(Opaque::named(name.module.as_str(), name.name.as_str()))));
        }
        self.budget.depth(depth)?;
        self.in_progress[at] = true;
        // Taken out so that others can be looked at, and put back for the next reference to it.
        let object = std::mem::replace(object, Object::Plain(Value::None));
        let value = self.container(&object, depth, once)?;
        if !once {
            self.objects[at] = object;
        }
        self.in_progress[at] = false;
        Ok(value)
    }

    fn container(&mut self, object: &Object, depth: usize, once: bool) -> Result<Value> {
        Ok(match object {
            Object::List(items) => Value::List(self.values(items, depth, once)?),
            Object::Tuple(items) => Value::Tuple(self.values(items, depth, once)?),
            Object::Set(items) => Value::Set(self.set(items, depth, once)?),
            Object::FrozenSet(items) => Value::FrozenSet(self.set(items, depth, once)?),
            Object::Dict(members) => Value::Dict(self.dict(members, depth, once)?),
            Object::Instance(instance) => self.instance(instance, depth, once)?,
            Object::Plain(_) | Object::Name(_) => return Err(wrong("the stack is empty")),
        })
    }

    fn values(&mut self, ids: &[Id], depth: usize, once: bool) -> Result<Vec<Value>> {
        // A loop takes less of the stack than an iterator that may fail.
        let mut values = Vec::with_capacity(ids.len().min(1024));
        for id in ids {
            values.push(self.value(*id, depth + 1, once)?);
        }
        Ok(values)
    }

    fn set(&mut self, ids: &[Id], depth: usize, once: bool) -> Result<Vec<Value>> {
        let mut builder = SetBuilder::default();
        for id in ids {
            builder.insert(self.value(*id, depth + 1, once)?)?;
        }
        Ok(builder.finish())
    }

    fn dict(&mut self, members: &[(Id, Id)], depth: usize, once: bool) -> Result<Vec<(Value, Value)>> {
        let mut builder = DictBuilder::default();
        for (key, value) in members {
            let key = self.value(*key, depth + 1, once)?;
            builder.insert(key, self.value(*value, depth + 1, once)?)?;
        }
        Ok(builder.finish())
    }

    fn instance(&mut self, instance: &Instance, depth: usize, once: bool) -> Result<Value> {
        self.budget.bytes(instance.class.module.len() + instance.class.name.len())?;
        let opaque = Opaque {
            module: instance.class.module.clone(),
            name: instance.class.name.clone(),
            kind: instance.kind,
            args: self.values(&instance.args, depth, once)?,
            kwargs: self.dict(&instance.kwargs, depth, once)?,
            state: match instance.state {
                Some(state) => Some(self.value(state, depth + 1, once)?),
                None => None,
            },
            items: self.values(&instance.items, depth, once)?,
            entries: self.dict(&instance.entries, depth, once)?,
        };
        classes::value(opaque)
    }
}
