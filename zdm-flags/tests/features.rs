//! What the optional features add: signatures, HTTP, watching, OpenFeature.

#![cfg(all(feature = "http", feature = "notify", feature = "open-feature", feature = "signature"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use open_feature::provider::FeatureProvider as _;
use open_feature::{EvaluationContext, EvaluationErrorCode, EvaluationReason};
use serde_json::{Value, json};
use zdm_flags::open_feature::OpenFeatureProvider;
use zdm_flags::source::{FileSource, HttpSource, Source as _};
use zdm_flags::{Context, Flags, LoadError};

fn file(revision: u64, on: bool) -> Vec<u8> {
    let flag = json!({"state": "ENABLED", "variants": {"on": true, "off": false},
        "defaultVariant": if on { "on" } else { "off" }});
    json!({"metadata": {"zdm.revision": revision}, "flags": {"new": flag}}).to_string().into_bytes()
}

fn on(flags: &Flags) -> bool {
    flags.snapshot().by_name::<bool>("new", false, &Context::anonymous())
}

#[test]
fn only_signed_files_are_taken_and_revisions_do_not_go_back() {
    let (key, stranger) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
    let flags = Flags::builder().trust(key.verifying_key().to_bytes()).unwrap().build().unwrap();
    let sign = |key: &SigningKey, bytes: &[u8]| key.sign(bytes).to_bytes();
    let (first, second) = (file(1, false), file(2, true));
    let refused = |result: Result<zdm_flags::Change, LoadError>, word: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, LoadError::Untrusted { .. }) && error.to_string().contains(word), "{error}");
    };
    flags.apply_signed(&first, &sign(&key, &first)).unwrap();
    refused(flags.apply(&second), "no signature");
    refused(flags.apply_signed(&second, &sign(&stranger, &second)), "does not fit");
    refused(flags.apply_signed(&second, &sign(&key, &first)), "does not fit");
    refused(flags.apply_signed(&second, b"short"), "64 bytes");
    assert!(!on(&flags));
    let hex: String = sign(&key, &second).iter().map(|byte| format!("{byte:02x}")).collect();
    flags.apply_signed(&second, format!("{hex}\n").as_bytes()).unwrap();
    assert!(on(&flags));
    refused(flags.apply_signed(&first, &sign(&key, &first)), "revision is 1");
    let other = file(2, false);
    refused(flags.apply_signed(&other, &sign(&key, &other)), "revision 2 is running");
    flags.apply_signed(&second, &sign(&key, &second)).unwrap();
    let plain = br#"{"flags": {}}"#;
    refused(flags.apply_signed(plain, &sign(&key, plain)), "zdm.revision");
}

#[test]
fn a_signature_lies_beside_its_file() {
    let key = SigningKey::from_bytes(&[9; 32]);
    let path = std::env::temp_dir().join(format!("zdm-flags-signed-{}.json", std::process::id()));
    let signature = path.with_extension("json.sig");
    let start = || {
        let builder = Flags::builder().source(FileSource::poll(&path));
        builder.trust(key.verifying_key().to_bytes()).unwrap().build()
    };
    let bytes = file(3, true);
    std::fs::write(&path, &bytes).unwrap();
    drop(std::fs::remove_file(&signature));
    assert!(matches!(start(), Err(LoadError::Untrusted { .. })));
    std::fs::write(&signature, key.sign(&bytes).to_bytes()).unwrap();
    assert!(on(&start().unwrap()));
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&signature).unwrap();
}

/// A server that answers each connection with what it has, and remembers the requests.
struct Server {
    address: String,
    answer: Arc<Mutex<(u16, String, Vec<u8>)>>,
    requests: Arc<Mutex<Vec<String>>>,
}

fn serve() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/flags.json", listener.local_addr().unwrap());
    let answer = Arc::new(Mutex::new((200, "\"1\"".to_owned(), file(1, false))));
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let server = Server { address, answer: Arc::clone(&answer), requests: Arc::clone(&requests) };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            respond(&mut stream.unwrap(), &answer.lock().unwrap(), &requests);
        }
    });
    server
}

fn respond(
    stream: &mut TcpStream,
    (status, etag, body): &(u16, String, Vec<u8>),
    requests: &Mutex<Vec<String>>,
) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap().to_ascii_lowercase();
    let unchanged = *status == 200 && request.contains(&format!("if-none-match: {etag}"));
    requests.lock().unwrap().push(request);
    let (status, body): (u16, &[u8]) = if unchanged { (304, b"") } else { (*status, body) };
    let head = format!(
        "HTTP/1.1 {status} Answer\r\nETag: {etag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
}

#[test]
fn http_asks_with_the_etag_and_backs_off() {
    let server = serve();
    let flags = Flags::builder().source(HttpSource::new(&server.address)).build().unwrap();
    assert!(!on(&flags));
    flags.reload().unwrap();
    assert!(server.requests.lock().unwrap()[1].contains("if-none-match: \"1\""));
    *server.answer.lock().unwrap() = (200, "\"2\"".to_owned(), file(2, true));
    flags.reload().unwrap();
    assert!(on(&flags));
    *server.answer.lock().unwrap() = (503, "\"3\"".to_owned(), Vec::new());
    let error = flags.reload().unwrap_err();
    assert!(matches!(error, LoadError::Source { .. }), "{error}");
    assert!(on(&flags));
    assert_eq!(flags.health().sources[0].failures, 1);
    assert!(flags.health().sources[0].refused.as_ref().unwrap().contains("503"));

    let source = HttpSource::new(&server.address).every(Duration::from_secs(10));
    assert_eq!(source.pause(0), Duration::from_secs(10));
    let (third, late) = (source.pause(3), source.pause(40));
    assert!(
        (40..=80).contains(&third.as_secs()) && (300..=600).contains(&late.as_secs()),
        "{third:?} {late:?}"
    );
}

#[test]
fn a_watched_file_is_read_without_waiting_for_the_next_poll() {
    let folder = std::env::temp_dir().join(format!("zdm-flags-watch-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("flags.json");
    std::fs::write(&path, file(1, false)).unwrap();
    let never = Duration::from_secs(3_600);
    let flags = Flags::builder().source(FileSource::watch(&path).every(never)).build().unwrap();
    let fresh = folder.join("fresh");
    std::fs::write(&fresh, file(2, true)).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !on(&flags) {
        assert!(Instant::now() < deadline, "{:?}", flags.health());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn openfeature_gets_values_reasons_and_codes() {
    let text = json!({"metadata": {"version": "7"}, "$evaluators": {}, "flags": {
        "new": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
            "targeting": {"if": [{"==": [{"var": "address.city"}, "Rome"]}, "on"]}},
        "limit": {"state": "ENABLED", "variants": {"a": 3}, "defaultVariant": "a"},
        "page": {"state": "ENABLED", "variants": {"a": {"rows": 3, "none": null, "list": [1.5, "x"]}}, "defaultVariant": "a"},
        "off": {"state": "DISABLED", "variants": {"a": "x"}, "defaultVariant": "a"},
        "bad": {"state": "ENABLED", "variants": {"a": "x"}, "targeting": {"frob": 1}},
    }});
    let provider = OpenFeatureProvider::new(Flags::from_json(text.to_string().as_bytes()).unwrap());
    let address: Value = json!({"city": "Rome"});
    let rome = EvaluationContext::default()
        .with_targeting_key("ada")
        .with_custom_field("address", open_feature::EvaluationContextFieldValue::Struct(Arc::new(address)));
    let details = provider.resolve_bool_value("new", &rome).await.unwrap();
    assert_eq!((details.value, details.variant.as_deref()), (true, Some("on")));
    assert_eq!(details.reason, Some(EvaluationReason::TargetingMatch));
    assert!(details.flag_metadata.unwrap().values.contains_key("version"));
    let anybody = EvaluationContext::default();
    assert_eq!(
        provider.resolve_bool_value("new", &anybody).await.unwrap().reason,
        Some(EvaluationReason::Default)
    );
    assert_eq!(provider.resolve_int_value("limit", &anybody).await.unwrap().value, 3);
    assert_eq!(provider.resolve_float_value("limit", &anybody).await.unwrap().value, 3.0);
    assert_eq!(provider.resolve_struct_value("page", &anybody).await.unwrap().value.fields.len(), 2);
    let code = |key: &'static str| {
        let (provider, anybody) = (&provider, &anybody);
        async move { provider.resolve_string_value(key, anybody).await.unwrap_err().code }
    };
    assert_eq!(code("nowhere").await, EvaluationErrorCode::FlagNotFound);
    assert_eq!(code("limit").await, EvaluationErrorCode::TypeMismatch);
    assert_eq!(code("bad").await, EvaluationErrorCode::ParseError);
    assert_eq!(code("off").await, EvaluationErrorCode::General("DISABLED".to_owned()));
}
