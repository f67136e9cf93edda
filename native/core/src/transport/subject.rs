//! Whom a client's certificate names: its subject, written as gRPC's own server writes it.

use std::fmt::Write;

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// The subject of a certificate as gRPC gives it: RFC 2253, which names the most specific part first. None where it
/// has none.
pub(super) fn subject(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    written(certificate.subject())
}

fn written(name: &X509Name<'_>) -> Option<String> {
    let mut sets: Vec<String> = Vec::new();
    for set in name.iter_rdn() {
        let mut parts: Vec<String> = Vec::new();
        for attribute in set.iter() {
            let oid = attribute.attr_type().to_id_string();
            parts.push(match short_name(&oid) {
                Some(name) => format!("{name}={}", value(attribute.attr_value())),
                None => format!("{oid}={}", dumped(attribute.attr_value())),
            });
        }
        parts.reverse();
        sets.push(parts.join("+"));
    }
    sets.reverse();
    (!sets.is_empty()).then(|| sets.join(","))
}

/// OpenSSL's short names.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.13" => "description",
        "2.5.4.17" => "postalCode",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.46" => "dnQualifier",
        "2.5.4.65" => "pseudonym",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn value(any: &Any<'_>) -> String {
    match text(any) {
        Some(text) => escaped(&text),
        None => dumped(any),
    }
}

fn text(any: &Any<'_>) -> Option<String> {
    let units = any
        .data
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    match any.tag() {
        Tag::Utf8String => String::from_utf8(any.data.to_vec()).ok(),
        Tag::BmpString => char::decode_utf16(units).collect::<Result<_, _>>().ok(),
        Tag::PrintableString | Tag::Ia5String | Tag::T61String | Tag::NumericString | Tag::VisibleString => {
            Some(any.data.iter().copied().map(char::from).collect())
        }
        _ => None,
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => out.extend(['\\', char::from(byte)]),
            b'#' if index == 0 => out.push_str("\\#"),
            b' ' if index == 0 || index == last => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(out, "\\{byte:02X}")),
        }
    }
    out
}

/// A value of a kind that has no text: the hexadecimal digits of its DER.
fn dumped(any: &Any<'_>) -> String {
    let mut der = vec![u8::try_from(any.tag().0).unwrap_or(0)];
    let size = any.data.len();
    if size < 0x80 {
        der.push(size as u8);
    } else {
        let bytes: Vec<u8> = size
            .to_be_bytes()
            .into_iter()
            .skip_while(|byte| *byte == 0)
            .collect();
        der.push(0x80 | bytes.len() as u8);
        der.extend(bytes);
    }
    der.extend(any.data);
    der.iter().fold(String::from("#"), |mut out, byte| {
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02X}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digits = hexadecimal
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| std::str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    #[test]
    fn names_are_written_as_grpc_does() {
        // DER names, and what grpcio's auth_context gave as x509_subject for certificates with them.
        let names = [
            (
                concat!(
                    "3047310b3009060355040613024445311f301d060355040a0c16412c20224222202620432b443b203c78",
                    "3e205c2023313117301506035504030c0e6465736b20c3a9e282acf09f9880",
                ),
                r#"CN=desk \C3\A9\E2\82\AC\F0\9F\98\80,O=A\, \"B\" & C\+D\; \<x\> \\ #1,C=DE"#,
            ),
            (
                concat!(
                    "306c310f300d06035504030c0620236c656164310f300d060355040b0c06747261696c20311430120609",
                    "2a864886f70d01090116056140622e63310b30090603550405130234323111300f060a0992268993f22c",
                    "6401010c017531123010060a0992268993f22c64011916026463",
                ),
                r#"DC=dc,UID=u,serialNumber=42,emailAddress=a@b.c,OU=trail\ ,CN=\ #lead"#,
            ),
            (
                concat!(
                    "3081b5310b300906035504030c0223783111300f06042a0304050c07756e6b6e6f776e310a3008060355",
                    "040c0c0174310a300806035504090c0173310a300806035504410c0170310a3008060355042a0c016731",
                    "0b300906035504040c02736e310a300806035504110c0131310b300906035504610c026f69310c300a06",
                    "0355042c0c03494949310a3008060355042e130171310a300806035504070c016c310b30090603550408",
                    "0c027374310a3008060355042b0c0169",
                ),
                concat!(
                    r#"initials=i,ST=st,L=l,dnQualifier=q,generationQualifier=III,2.5.4.97=#0C026F69,postal"#,
                    r#"Code=1,SN=sn,GN=g,pseudonym=p,street=s,title=t,1.2.3.4.5=#0C07756E6B6E6F776E,CN=\#x"#,
                ),
            ),
            (
                concat!(
                    "303a3115301306035504031e0c0062006d0070002000e9002c310c300a060355040a1403743631311330",
                    "1106035504070c0a6c696e650a7461627f20",
                ),
                r#"L=line\0Atab\7F\ ,O=t61,CN=bmp \C3\A9\,"#,
            ),
            (
                "302731183008060355040a0c016f300c06035504030c056d756c7469310b3009060355040613024445",
                r#"C=DE,CN=multi+O=o"#,
            ),
        ];
        for (der, expected) in names {
            let der = bytes(der);
            let (_, name) = X509Name::from_der(&der).unwrap();
            assert_eq!(written(&name).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_certificate_without_a_subject_has_none() {
        assert_eq!(written(&X509Name::from_der(&[0x30, 0]).unwrap().1), None);
        assert_eq!(subject(b"no certificate"), None);
    }
}
