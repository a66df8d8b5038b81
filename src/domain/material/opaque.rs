//! Random values under names of the user's choice.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use rand::CryptoRng;
use serde_json::{Value, json};

use super::{
    Drawn, Entries, Facts, Generated, Kind, Problem, Provided, READERS_GO_ON, Request, entry, forever,
    password,
};
use crate::api::material::{Encoding, Field, Password};

pub(super) const KIND: Kind = Kind {
    secret_type: "Opaque",
    generated: Some(Generated { options, draw, lasts: forever, bearer: false, public: &[] }),
    provided: Provided { required: &[], optional: &[], check, publish: None },
    when_inactive: READERS_GO_ON,
};

fn fields<'a>(request: &Request<'a>) -> Result<&'a [Field], Problem> {
    match &request.spec.opaque {
        Some(block) if !block.fields.is_empty() => Ok(&block.fields),
        _ => Err(Problem::Options(
            "set spec.opaque.fields, such as [{name: api-key}], or spec.provided".to_owned(),
        )),
    }
}

fn password(field: &Field) -> Password {
    Password { length: field.length, alphabet: field.alphabet.clone() }
}

fn options(request: &Request<'_>) -> Result<Value, Problem> {
    let fields = fields(request)?.iter().map(|field| {
        let drawn = match field.encoding {
            None => password::options(&password(field))?,
            Some(encoding) => json!({ "bytes": field.length.unwrap_or(32), "encoding": encoding }),
        };
        Ok((field.name.clone(), drawn))
    });
    Ok(Value::Object(fields.collect::<Result<_, _>>()?))
}

fn draw(request: &Request<'_>, random: &mut dyn CryptoRng) -> Result<Drawn, Problem> {
    let mut entries = Entries::new();
    for field in fields(request)? {
        let (key, value) = match field.encoding {
            None => entry(&field.name, password::draw(&password(field), random).expose().as_str()),
            Some(encoding) => {
                let bytes = password::bytes(field.length.unwrap_or(32) as usize, random);
                let bytes = bytes.expose();
                match encoding {
                    Encoding::Hex => entry(&field.name, HEXLOWER.encode(bytes)),
                    Encoding::Base64 => entry(&field.name, BASE64.encode(bytes)),
                    Encoding::Base64Url => entry(&field.name, BASE64URL_NOPAD.encode(bytes)),
                    Encoding::Raw => entry(&field.name, bytes.as_slice()),
                }
            }
        };
        entries.insert(key, value);
    }
    Ok(Drawn { entries, facts: Facts::default() })
}

fn check(found: &Entries, _: jiff::Timestamp) -> Result<Facts, Problem> {
    if found.is_empty() {
        return Err(Problem::Material("it has no key at all".to_owned()));
    }
    Ok(Facts::default())
}
