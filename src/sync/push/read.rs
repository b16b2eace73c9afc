//! From the request's text to changes: form, ids, times, bases. Nothing here depends on what is stored.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::change::{Base, Change, Edit};
use crate::domain::clock;
use crate::domain::ids::{RecordId, TableName};
use crate::domain::incoming::{self, Incoming};
use crate::domain::limits;
use crate::domain::record::{Content, Hash};
use crate::protocol;
use crate::protocol::problem::Code;
use crate::protocol::push::{Operation, OperationBase, OperationNames, PushRequest};
use crate::store::accounts::Device;
use crate::sync::office::Office;

use super::{Frame, Item, Ready};

type Refused = (Code, String);

fn invalid<T>(detail: impl Into<String>) -> Result<T, Refused> {
    Err((Code::InvalidRecord, detail.into()))
}

/// Every change of the request, in its order.
pub(super) fn items(request: &PushRequest<'_>, body: &Bytes, office: &Office, device: &Device, frame: &Frame, most: usize) -> Vec<Item> {
    let place = |raw: &RawValue| {
        let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
        start..start + raw.get().len()
    };
    let mut items = Vec::new();
    for (table, list) in &request.changes.lists {
        let name: Arc<str> = table.as_str().into();
        for raw in list {
            let mut item = Item { table: name.clone(), record: None, op_id: None, raw: place(raw), ready: invalid("") };
            item.ready = whole_record(raw.get(), &mut item.record, most).and_then(|change| ready(change, table, office, device, frame));
            items.push(item);
        }
    }
    for raw in request.operations.iter().flat_map(|operations| &operations.kept) {
        let mut item = Item { table: "".into(), record: None, op_id: None, raw: place(raw), ready: invalid("") };
        item.ready = operation(raw.get(), &mut item, most).and_then(|change| ready(change, &item.table, office, device, frame));
        items.push(item);
    }
    items
}

fn ready(change: Change, table: &str, office: &Office, device: &Device, frame: &Frame) -> Result<Ready, Refused> {
    let Some(table) = office.table(table) else {
        let lines = match TableName::parse(table) {
            Ok(name) => format!(
                "The rules name no table {name:?}. To add it, put these lines into backroom.toml and reload: [tables.{name}] rule = \"latest_wins\" scope = \"store\""
            ),
            Err(e) => format!("{:?} is no table: {e}.", table.chars().take(80).collect::<String>()),
        };
        return Err((Code::UnknownTable, lines));
    };
    if !device.actor.may_write(&table.rules) {
        return Err((Code::Forbidden, format!("A {} may not write {}.", device.actor.role.word(), table.name)));
    }
    let hash = match &change.edit {
        Edit::Whole(content) | Edit::Patch(content) => content.hash(),
        Edit::Delete => Hash::default(),
    };
    let op = change.op(table.name.as_str(), frame.position, hash);
    Ok(Ready { table: table.clone(), change, op, hash })
}

fn parse(raw: &str, most: usize) -> Result<Incoming, Refused> {
    // Canonical form may be shorter than what was sent, never by more than white space and escapes.
    if raw.len() > 8 * most {
        return Err((Code::PayloadTooLarge, format!("The record is larger than {most} bytes.")));
    }
    let incoming = Incoming::parse(raw).map_err(|e| (Code::InvalidRecord, format!("Not a record: {e}.")))?;
    if incoming.content.text().len() > most {
        return Err((Code::PayloadTooLarge, format!("The record is larger than {most} bytes.")));
    }
    Ok(incoming)
}

fn record_id(value: Option<&Value>, seen: &mut Option<String>) -> Result<RecordId, Refused> {
    let Some(Value::String(text)) = value else {
        return invalid("A record needs an \"id\", which is a text.");
    };
    *seen = Some(if text.len() <= limits::ID_CHARS { text.clone() } else { text.chars().take(limits::ID_CHARS * 2).collect() });
    RecordId::parse(text).or_else(|e| invalid(format!("{e}.")))
}

fn time(value: Option<&Value>) -> Result<Option<clock::Micros>, Refused> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => match clock::parse(text) {
            Some(time) => Ok(Some(time)),
            None => invalid("\"updated_at\" is not an RFC 3339 time."),
        },
        Some(_) => invalid("\"updated_at\" is not an RFC 3339 time."),
    }
}

fn version(value: Option<&Value>) -> Result<Base, Refused> {
    match value {
        None | Some(Value::Null) => Ok(Base::Absent),
        Some(value) => match value.as_i64() {
            Some(0) => Ok(Base::Nothing),
            Some(n) if n > 0 => Ok(Base::Version(n)),
            _ => invalid("\"version\" is not a whole number from 0 on."),
        },
    }
}

fn deleted(value: Option<&Value>) -> Result<bool, Refused> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(deleted)) => Ok(*deleted),
        Some(_) => invalid("\"deleted\" is neither true nor false."),
    }
}

fn whole_record(raw: &str, seen: &mut Option<String>, most: usize) -> Result<Change, Refused> {
    let incoming = parse(raw, most)?;
    let id = record_id(incoming.id.as_ref(), seen)?;
    let (updated_at, base) = (time(incoming.updated_at.as_ref())?, version(incoming.version.as_ref())?);
    let edit = if deleted(incoming.deleted.as_ref())? { Edit::Delete } else { Edit::Whole(incoming.content) };
    Ok(Change { id, edit, base, updated_at, op_id: None })
}

fn operation(raw: &str, item: &mut Item, most: usize) -> Result<Change, Refused> {
    // The names first, so that even a bad operation is refused by name.
    if let Ok(names) = protocol::object::<OperationNames<'_>>(raw.as_bytes()) {
        let text = |name: Option<&RawValue>| match incoming::plain(name?.get())? {
            Value::String(text) => Some(text.chars().take(limits::ID_CHARS * 2).collect::<String>()),
            _ => None,
        };
        item.table = text(names.table).unwrap_or_default().into();
        item.record = text(names.id);
        item.op_id = text(names.op_id).filter(|id| (1..=limits::OP_ID_CHARS).contains(&id.len()));
        if names.op_id.is_some() && item.op_id.is_none() {
            return invalid(format!("\"op_id\" is a text of 1 to {} bytes.", limits::OP_ID_CHARS));
        }
    }
    let operation: Operation<'_> =
        protocol::object(raw.as_bytes()).map_err(|e| (Code::InvalidRecord, format!("Not an operation: {e}.")))?;
    let id: Option<Value> = operation.id.and_then(|raw| incoming::plain(raw.get()));
    let id = record_id(id.as_ref(), &mut item.record)?;
    let data = match operation.data {
        Some(raw) => Some(parse(raw.get(), most)?),
        None => None,
    };
    let patch = match operation.patch {
        Some(raw) => Some(parse(raw.get(), most)?),
        None => None,
    };
    let inner = data.as_ref().or(patch.as_ref());
    if let Some(inner) = inner.and_then(|incoming| incoming.id.as_ref())
        && inner.as_str() != Some(id.as_str())
    {
        return invalid("\"id\" in the data is not the operation's.");
    }
    let updated_at = match &operation.updated_at {
        Some(text) => time(Some(&Value::String(text.clone())))?,
        None => time(inner.and_then(|incoming| incoming.updated_at.as_ref()))?,
    };
    let base = match operation.base {
        Some(None) => Base::Nothing,
        Some(Some(raw)) => explicit_base(raw.get(), most)?,
        None if operation.op == "create" => Base::Nothing,
        None => version(inner.and_then(|incoming| incoming.version.as_ref()))?,
    };
    let gone = deleted(inner.and_then(|incoming| incoming.deleted.as_ref()))?;
    let edit = match (operation.op.as_str(), data, patch) {
        ("delete", _, _) => Edit::Delete,
        ("create" | "update", Some(_), Some(_)) => return invalid("An operation has \"data\" or \"patch\", not both."),
        ("create" | "update", None, None) => return invalid("An operation needs \"data\" or \"patch\"."),
        ("update", _, _) if gone => Edit::Delete,
        ("create" | "update", Some(data), None) => Edit::Whole(data.content),
        ("create" | "update", None, Some(patch)) => Edit::Patch(patch.content),
        _ => return invalid("\"op\" is create, update or delete."),
    };
    Ok(Change { id, edit, base, updated_at, op_id: operation.op_id })
}

fn explicit_base(raw: &str, most: usize) -> Result<Base, Refused> {
    let base: OperationBase<'_> = protocol::object(raw.as_bytes())
        .or_else(|_| invalid("\"base\" is null, {\"version\": n}, {\"hash\": \"…\"} or {\"data\": {…}}."))?;
    match (base.version, base.hash, base.data) {
        (Some(n), None, None) => version(Some(&Value::from(n))),
        (None, Some(hash), None) => match Hash::parse(&hash) {
            Some(hash) => Ok(Base::Hash(hash)),
            None => invalid("\"hash\" is not 32 hexadecimal digits."),
        },
        (None, None, Some(data)) => Ok(Base::Data(content(data.get(), most)?)),
        _ => invalid("\"base\" has exactly one of version, hash and data."),
    }
}

fn content(raw: &str, most: usize) -> Result<Content, Refused> {
    Ok(parse(raw, most)?.content)
}
