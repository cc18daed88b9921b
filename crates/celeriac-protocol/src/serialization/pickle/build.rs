//! From the machine's graph of objects to a value: a tree, so what is shared is there more than once.

use celeriac_error::Result;

use super::classes;
use super::machine::{Id, Instance, Object, wrong};
use crate::serialization::containers::{DictBuilder, SetBuilder};
use crate::serialization::limits::Budget;
use crate::serialization::{Opaque, Value};

pub(super) fn build(objects: Vec<Object>, root: Id, budget: &mut Budget) -> Result<Value> {
    let in_progress = vec![false; objects.len()];
    Builder { objects, in_progress, budget }.value(root, 0)
}

struct Builder<'a> {
    objects: Vec<Object>,
    in_progress: Vec<bool>,
    budget: &'a mut Budget,
}

impl Builder<'_> {
    fn value(&mut self, id: Id, depth: usize) -> Result<Value> {
        self.budget.value()?;
        let at = id as usize;
        if self.in_progress.get(at) == Some(&true) {
            return Err(wrong("its data is cyclic: something contains itself"));
        }
        let object = self.objects.get_mut(at).ok_or_else(|| wrong("the stack is empty"))?;
        if let Object::Plain(value) = object {
            let length = match value {
                Value::Text(text) => text.len(),
                Value::Utf16(units) => units.len() * 2,
                Value::Bytes(bytes) => bytes.len(),
                _ => 0,
            };
            self.budget.bytes(length)?;
            return Ok(value.clone());
        }
        if let Object::Name { module, name } = object {
            self.budget.bytes(module.len() + name.len())?;
            return Ok(Value::Opaque(Box::new(Opaque::named(module.as_str(), name.as_str()))));
        }
        self.budget.depth(depth)?;
        self.in_progress[at] = true;
        // Taken out so that others can be looked at, and put back for the next reference to it.
        let object = std::mem::replace(object, Object::Plain(Value::None));
        let value = self.container(&object, depth)?;
        self.objects[at] = object;
        self.in_progress[at] = false;
        Ok(value)
    }

    fn container(&mut self, object: &Object, depth: usize) -> Result<Value> {
        Ok(match object {
            Object::List(items) => Value::List(self.values(items, depth)?),
            Object::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            Object::Set(items) => Value::Set(self.set(items, depth)?),
            Object::FrozenSet(items) => Value::FrozenSet(self.set(items, depth)?),
            Object::Dict(members) => Value::Dict(self.dict(members, depth)?),
            Object::Instance(instance) => self.instance(instance, depth)?,
            Object::Plain(_) | Object::Name { .. } => return Err(wrong("the stack is empty")),
        })
    }

    fn values(&mut self, ids: &[Id], depth: usize) -> Result<Vec<Value>> {
        // A loop takes less of the stack than an iterator that may fail.
        let mut values = Vec::with_capacity(ids.len().min(1024));
        for id in ids {
            values.push(self.value(*id, depth + 1)?);
        }
        Ok(values)
    }

    fn set(&mut self, ids: &[Id], depth: usize) -> Result<Vec<Value>> {
        let mut builder = SetBuilder::default();
        for id in ids {
            builder.insert(self.value(*id, depth + 1)?)?;
        }
        Ok(builder.finish())
    }

    fn dict(&mut self, members: &[(Id, Id)], depth: usize) -> Result<Vec<(Value, Value)>> {
        let mut builder = DictBuilder::default();
        for (key, value) in members {
            let key = self.value(*key, depth + 1)?;
            builder.insert(key, self.value(*value, depth + 1)?)?;
        }
        Ok(builder.finish())
    }

    fn instance(&mut self, instance: &Instance, depth: usize) -> Result<Value> {
        self.budget.bytes(instance.module.len() + instance.name.len())?;
        let opaque = Opaque {
            module: instance.module.clone(),
            name: instance.name.clone(),
            kind: instance.kind,
            args: self.values(&instance.args, depth)?,
            kwargs: self.dict(&instance.kwargs, depth)?,
            state: match instance.state {
                Some(state) => Some(self.value(state, depth + 1)?),
                None => None,
            },
            items: self.values(&instance.items, depth)?,
            entries: self.dict(&instance.entries, depth)?,
        };
        classes::value(opaque)
    }
}
