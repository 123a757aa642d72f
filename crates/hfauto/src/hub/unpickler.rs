//! Reads the pickles in PyTorch checkpoints: the opcodes that they use, over plain values. It rejects a pickle that
//! names anything but tensors, and never calls a function. Not here: the values ([`super::pickle`]).

use std::collections::BTreeMap;

use super::layout::Fault;
use super::pickle::{Global, Id, Pickle, StorageRef, TensorRef, Value};
use crate::limits;

/// The memory of one entry on the stack, the mark stack or in the memo.
const STEP: usize = 48;

/// The hint for all rejected pickles.
const CONVERT: &str = "if you trust the file, load it with torch once and save it as safetensors";

/// Reads the pickle at `position` of `bytes` and advances `position` past it.
pub(super) fn read(bytes: &[u8], position: &mut usize) -> Result<(Pickle, Id), Fault> {
    let mut machine = Machine {
        input: Input { bytes, position: *position },
        pickle: Pickle::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        start: *position,
        spent: 0,
    };
    let top = machine.run()?;
    *position = machine.input.position;
    Ok((machine.pickle, top))
}

fn broken(what: &str) -> Fault {
    Fault::new(format!("has a malformed pickle: {what}"))
}

struct Input<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let end = self.position.checked_add(count).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(Fault::new(format!(
                "is truncated: its pickle needs {count} bytes from byte {}, but ends at {}",
                self.position,
                self.bytes.len()
            )));
        };
        let taken = &self.bytes[self.position..end];
        self.position = end;
        Ok(taken)
    }

    /// A little-endian unsigned integer of `count` bytes, at most 8.
    fn number(&mut self, count: usize) -> Result<usize, Fault> {
        let mut bytes = [0; 8];
        bytes[..count].copy_from_slice(self.take(count)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| broken("a length over 64 bits"))
    }

    fn text(&mut self, count: usize) -> Result<Value, Fault> {
        let text =
            std::str::from_utf8(self.take(count)?).map_err(|_| broken("text not in UTF-8"))?;
        Ok(Value::Text(text.to_owned()))
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.bytes[self.position..];
        // Names are short. A missing line break must not cause a scan over gigabytes of tensors.
        let length = rest.iter().take(512).position(|byte| *byte == b'\n');
        let length = length.ok_or_else(|| broken("a name without end"))?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| broken("a name not in UTF-8"))
    }
}

struct Machine<'a> {
    input: Input<'a>,
    pickle: Pickle,
    stack: Vec<Id>,
    /// Stack heights at the open marks.
    marks: Vec<usize>,
    memo: BTreeMap<usize, Id>,
    /// The offset of the pickle.
    start: usize,
    /// The approximate memory of the values, in bytes.
    spent: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, Fault> {
        loop {
            let opcode = self.input.take(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    /// Charges `bytes` against the memory limit. The limit grows with the number of bytes read, because a pickle cannot
    /// recall a value before it wrote it.
    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.spent = self.spent.saturating_add(bytes);
        let read = self.input.position - self.start;
        let most = limits::PICKLE_MEMORY_PER_BYTE
            .saturating_mul(read)
            .saturating_add(limits::PICKLE_MEMORY)
            .min(limits::PICKLE_MEMORY_MAX);
        if self.spent > most {
            return Err(Fault::new(format!(
                "needs more memory than a checkpoint does: {read} bytes of its pickle expand to more than {most} bytes"
            ))
            .hint(CONVERT));
        }
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one arm per opcode")]
    fn step(&mut self, opcode: u8) -> Result<(), Fault> {
        self.charge(STEP)?;
        match opcode {
            // PROTO
            0x80 => match self.input.take(1)?[0] {
                2..=5 => {}
                version => return Err(broken(&format!("protocol {version}, expected 2 to 5"))),
            },
            // FRAME
            0x95 => drop(self.input.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'J' => {
                let bytes = self.input.take(4)?;
                let value = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                self.push(Value::Int(i64::from(value)))?;
            }
            b'K' => self.push_int(1)?,
            b'M' => self.push_int(2)?,
            // LONG1
            0x8a => {
                let count = self.input.number(1)?;
                let bytes = self.input.take(count)?;
                self.push(long(bytes))?;
            }
            // BINFLOAT
            b'G' => {
                self.input.take(8)?;
                self.push(Value::Opaque)?;
            }
            b'X' => self.push_text(4)?,
            // SHORT_BINUNICODE, BINUNICODE8
            0x8c => self.push_text(1)?,
            0x8d => self.push_text(8)?,
            // The byte strings that Python 2 wrote for text: SHORT_BINSTRING, BINSTRING.
            b'U' => self.push_text(1)?,
            b'T' => self.push_text(4)?,
            // SHORT_BINBYTES, BINBYTES
            b'C' => self.push_bytes(1)?,
            b'B' => self.push_bytes(4)?,
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))?;
            }
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items))?;
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(pairs(&items)?))?;
            }
            // TUPLE1, TUPLE2, TUPLE3
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let from = self.stack.len().checked_sub(count).filter(|from| *from >= self.floor());
                let items = self.stack.split_off(from.ok_or_else(|| broken("an empty stack"))?);
                self.push(Value::Tuple(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.insert(pairs(&items)?)?;
            }
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            // MEMOIZE
            0x94 => {
                let top = self.top()?;
                self.charge(2 * STEP)?;
                self.memo.insert(self.memo.len(), top);
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'c' => {
                let module = self.input.line()?;
                let name = self.input.line()?;
                self.push_global(module, name)?;
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id| self.pickle.text(id).map(str::to_owned);
                let (Some(module), Some(name)) = (text(module), text(name)) else {
                    return Err(broken("a global without name"));
                };
                self.push_global(&module, &name)?;
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                let result = self.apply(function, arguments)?;
                self.stack.push(result);
            }
            // BUILD: the attributes of a state dict, `_metadata`, which tensors do not depend on.
            b'b' => {
                self.pop()?;
                let top = self.top()?;
                if !matches!(self.pickle.get(top), Value::Dict(_)) {
                    return Err(Fault::new("sets the attributes of an object").hint(CONVERT));
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.persistent(id)?;
                self.push(Value::Storage(storage))?;
            }
            other => {
                let what = format!("opcode 0x{other:02x}, which checkpoints do not use");
                return Err(broken(&what).hint(CONVERT));
            }
        }
        Ok(())
    }

    fn push(&mut self, value: Value) -> Result<(), Fault> {
        self.stack.push(self.pickle.values.len());
        self.keep(value)
    }

    /// Adds a value to the arena.
    fn keep(&mut self, value: Value) -> Result<(), Fault> {
        self.charge(size_of::<Value>() + value.heap_bytes())?;
        self.pickle.values.push(value);
        Ok(())
    }

    /// The lowest stack height that `pop` may reach: the innermost open mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        if self.stack.len() <= self.floor() {
            return Err(broken("an empty stack"));
        }
        self.stack.pop().ok_or_else(|| broken("an empty stack"))
    }

    fn top(&self) -> Result<Id, Fault> {
        self.stack.last().copied().ok_or_else(|| broken("an empty stack"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let mark = self.marks.pop().ok_or_else(|| broken("a missing mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn push_int(&mut self, count: usize) -> Result<(), Fault> {
        let value = self.input.number(count)?;
        self.push(Value::Int(value as i64))?;
        Ok(())
    }

    fn push_text(&mut self, length_bytes: usize) -> Result<(), Fault> {
        let length = self.input.number(length_bytes)?;
        let text = self.input.text(length)?;
        self.push(text)?;
        Ok(())
    }

    fn push_bytes(&mut self, length_bytes: usize) -> Result<(), Fault> {
        let length = self.input.number(length_bytes)?;
        self.input.take(length)?;
        self.push(Value::Opaque)?;
        Ok(())
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        let Some(global) = Global::find(module, name) else {
            return Err(Fault::new(format!(
                "names `{module}.{name}`: a checkpoint may name tensors, not run code"
            ))
            .hint(CONVERT));
        };
        self.push(Value::Global(global))?;
        Ok(())
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<(), Fault> {
        let top = self.top()?;
        match &mut self.pickle.values[top] {
            Value::List(list) => {
                list.append(&mut items);
                Ok(())
            }
            _ => Err(broken("it appends to something that is not a list")),
        }
    }

    fn insert(&mut self, mut items: Vec<(Id, Id)>) -> Result<(), Fault> {
        let top = self.top()?;
        match &mut self.pickle.values[top] {
            Value::Dict(dict) => {
                dict.append(&mut items);
                Ok(())
            }
            _ => Err(broken("it sets items of something that is not a dictionary")),
        }
    }

    fn remember(&mut self, key_bytes: usize) -> Result<(), Fault> {
        let key = self.input.number(key_bytes)?;
        let top = self.top()?;
        self.charge(2 * STEP)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key_bytes: usize) -> Result<(), Fault> {
        let key = self.input.number(key_bytes)?;
        let id = self
            .memo
            .get(&key)
            .ok_or_else(|| broken("it recalls a value that it never memoized"))?;
        self.stack.push(*id);
        Ok(())
    }

    /// The result of calling `function` with these arguments.
    fn apply(&mut self, function: Id, arguments: Id) -> Result<Id, Fault> {
        let odd = |name: &str| broken(&format!("unexpected arguments of `{name}`"));
        let Value::Global(function) = *self.pickle.get(function) else {
            return Err(broken("it calls something that is not a function"));
        };
        let arguments = self
            .pickle
            .tuple(arguments)
            .ok_or_else(|| broken("a call without arguments"))?
            .to_vec();
        self.charge(size_of_val(arguments.as_slice()))?;
        match function {
            Global::OrderedDict => {
                let dict = match arguments.first().map(|id| self.pickle.get(*id)) {
                    None => Vec::new(),
                    // Python 2 lists the items as pairs.
                    Some(Value::List(items)) => items
                        .iter()
                        .map(|item| match self.pickle.get(*item) {
                            Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => {
                                Ok((pair[0], pair[1]))
                            }
                            _ => Err(odd("OrderedDict")),
                        })
                        .collect::<Result<_, _>>()?,
                    Some(_) => return Err(odd("OrderedDict")),
                };
                self.keep(Value::Dict(dict))?;
            }
            Global::RebuildTensor => {
                let tensor = self.tensor(&arguments).ok_or_else(|| odd("_rebuild_tensor"))?;
                self.keep(Value::Tensor(tensor))?;
            }
            Global::RebuildParameter | Global::Size => {
                return arguments.first().copied().ok_or_else(|| odd("_rebuild_parameter"));
            }
            Global::RebuildFromType => match arguments.as_slice() {
                // One level only: the function within is one that makes tensors.
                &[function, _, arguments, ..]
                    if matches!(
                        self.pickle.get(function),
                        Value::Global(Global::RebuildTensor | Global::RebuildParameter)
                    ) =>
                {
                    return self.apply(function, arguments);
                }
                _ => return Err(odd("_rebuild_from_type_v2")),
            },
            Global::Storage(_) | Global::Mentioned => {
                return Err(Fault::new("makes an object that is not a tensor").hint(CONVERT));
            }
        }
        Ok(self.pickle.values.len() - 1)
    }

    fn tensor(&self, arguments: &[Id]) -> Option<TensorRef> {
        let &[storage, offset, shape, strides, ..] = arguments else { return None };
        let storage = self.pickle.storage(storage)?;
        Some(TensorRef {
            offset: self.pickle.size(offset)?.checked_add(storage.start)?,
            storage,
            shape: self.pickle.sizes(shape)?,
            strides: self.pickle.sizes(strides)?,
        })
    }

    /// The storage that `("storage", type, key, location, length[, view])` names.
    fn persistent(&mut self, id: Id) -> Result<StorageRef, Fault> {
        let pickle = &self.pickle;
        let parse = || {
            let &[kind, storage_type, key, _location, len, ref view @ ..] = pickle.tuple(id)?
            else {
                return None;
            };
            if pickle.text(kind)? != "storage" {
                return None;
            }
            let Value::Global(Global::Storage(element)) = *pickle.get(storage_type) else {
                return None;
            };
            let start = match view.first().map(|view| pickle.get(*view)) {
                None | Some(Value::None) => 0,
                // (key of the view, first element, length)
                Some(Value::Tuple(view)) => pickle.size(*view.get(1)?)?,
                Some(_) => return None,
            };
            let key = match pickle.get(key) {
                Value::Text(key) => key.clone(),
                Value::Int(key) => key.to_string(),
                _ => return None,
            };
            Some(StorageRef { element, key, len: pickle.size(len)?, start })
        };
        let storage = parse().ok_or_else(|| {
            Fault::new("holds something other than tensors, as whole Python modules do")
                .hint(CONVERT)
        })?;
        let known =
            self.pickle.storages.entry(storage.key.clone()).or_insert_with(|| storage.clone());
        if known.element != storage.element || known.len != storage.len {
            return Err(broken(&format!("storage `{}` has two types or lengths", storage.key)));
        }
        Ok(storage)
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Fault> {
    if !items.len().is_multiple_of(2) {
        return Err(broken("a dictionary key without value"));
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Long(bytes.to_vec());
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(Pickle, Id), Fault> {
        super::read(bytes, &mut 0)
    }

    #[test]
    fn reads_values_and_stops_after_them() {
        // pickle.dumps({"a": [1, -2, 300], "b": (None, True)}, protocol=2), then a second pickle.
        let bytes = b"\x80\x02}q\0(X\x01\0\0\0aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01eX\x01\0\0\0bq\x03N\x88\x86q\x04u.K\x05.";
        let mut position = 0;
        let (pickle, top) = super::read(bytes, &mut position).unwrap();
        let Value::Dict(items) = pickle.get(top) else { panic!("{pickle:?}") };
        assert_eq!(pickle.text(items[0].0), Some("a"));
        let Value::List(list) = pickle.get(items[0].1) else { panic!("{pickle:?}") };
        let numbers: Vec<_> = list.iter().map(|id| pickle.get(*id).clone()).collect();
        assert!(matches!(numbers[..], [Value::Int(1), Value::Int(-2), Value::Int(300)]));
        let (pickle, top) = super::read(bytes, &mut position).unwrap();
        assert!(matches!(pickle.get(top), Value::Int(5)));
        assert_eq!(position, bytes.len());
    }

    #[test]
    fn a_value_memoized_before_it_is_filled_is_the_same_value() {
        // [d, d] with d = {}, where d is filled after it was memoized.
        let (pickle, top) = read(b"](}q\0K\x01K\x02sh\0e.").unwrap();
        let Value::List(list) = pickle.get(top) else { panic!("{pickle:?}") };
        assert_eq!(list[0], list[1]);
        assert!(matches!(pickle.get(list[1]), Value::Dict(items) if items.len() == 1));
    }

    #[test]
    fn reads_long_integers() {
        assert!(matches!(long(&[]), Value::Int(0)));
        assert!(matches!(long(&[0xff]), Value::Int(-1)));
        assert!(matches!(long(&[0xff, 0]), Value::Int(255)));
        assert!(matches!(long(&[0; 9]), Value::Long(_)));
    }

    #[test]
    fn refuses_every_other_name() {
        let check = |bytes: &[u8], expected: &str| {
            let fault = read(bytes).unwrap_err();
            assert!(fault.what.contains(expected), "{fault:?}");
            assert!(fault.hint.is_some());
        };
        check(b"cposix\nsystem\n(X\x02\0\0\0lstR.", "`posix.system`");
        check(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "`builtins.eval`");
        check(b"ctorch.storage\n_load_from_bytes\n.", "`torch.storage._load_from_bytes`");
        check(b"ctorch\nload\n.", "`torch.load`");
        check(b"ctorch\nFloatStorage\n)R.", "not a tensor");
        check(b"ios\nsystem\n.", "opcode 0x69");
    }

    #[test]
    fn survives_broken_pickles() {
        for bytes in [
            &b""[..],
            b".",
            b"K",
            b"a.",
            b"]N(a.",
            b"(]t.",
            b"h\x01.",
            b"R.",
            b"N)R.",
            b"\x85.",
            b"(K\x01d.",
            b"X\xff\xff\xff\xffa.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
            b"cabc",
            b"(0.",
            b"\x80\x09.",
            b"NQ.",
            b"K\x01N.b.",
            b"\x8a\xff\x01.",
        ] {
            drop(read(bytes));
        }
        // Deep nesting is no recursion.
        let mut deep = vec![b']'; 1_000_000];
        deep.extend(vec![b'a'; 999_999]);
        deep.push(b'.');
        assert!(read(&deep).is_ok());
    }

    #[test]
    fn refuses_pickles_that_grow_in_memory() {
        let key = "k".repeat(60_000);
        let mut storage = b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX".to_vec();
        storage.extend((key.len() as u32).to_le_bytes());
        storage.extend(key.as_bytes());
        storage.extend(b"X\x03\0\0\0cpuK\x01tq\x000");
        let mut list = b"\x80\x02]q\0(".to_vec();
        list.extend(b"K\x01K\x02\x86".repeat(20_000));
        list.extend(b"e0ccollections\nOrderedDict\nq\x010");
        for (mut pickle, repeated) in [(storage, &b"h\0Q0"[..]), (list, &b"h\x01h\0\x85R0"[..])] {
            pickle.extend(repeated.repeat(100_000));
            pickle.extend(b"}.");
            let fault = read(&pickle).unwrap_err();
            assert!(fault.what.contains("needs more memory than a checkpoint does"), "{fault:?}");
        }
    }
}
