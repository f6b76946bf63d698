//! The token endpoint out of an issuer's metadata, and the look at an assertion before anything is sent.

use obo_edge::failure::{FailureReason, TransportFailure};
use serde_json::{Value, json};

use crate::world::{
    Answer, HOUR, MINUTE, SECOND, World, assertion, at, options, read_options, request_of, request_with,
};

const ISSUER: &str = "https://login.example/tenant";
const OPENID: &str = "https://login.example/tenant/.well-known/openid-configuration";
const OAUTH: &str = "https://login.example/.well-known/oauth-authorization-server/tenant";
const ENDPOINT: &str = "https://login.example/tenant/token";

fn options_of(authentication: &Value) -> Value {
    let mut options = options();
    options.as_object_mut().unwrap().remove("tokenEndpoint");
    options["issuer"] = json!(ISSUER);
    options["clientAuthentication"] = authentication.clone();
    options
}

fn world() -> World {
    World::with_options(options_of(&options()["clientAuthentication"]), false)
}

fn metadata() -> Value {
    json!({"issuer": ISSUER, "token_endpoint": ENDPOINT})
}

fn published(document: &Value) -> Answer {
    Answer::respond(200, document.to_string())
}

#[test]
fn the_issuer_alone_is_enough_at_either_place_and_its_metadata_is_read_once() {
    for (place, fetched) in [(OPENID, vec![OPENID]), (OAUTH, vec![OPENID, OAUTH])] {
        let mut world = world();
        world.metadata.insert(place.to_owned(), published(&metadata()));
        world.ask(&request_of("ann", "read")).unwrap();
        world.ask(&request_of("bob", "read")).unwrap();
        assert_eq!(world.fetched, fetched);
        assert!(world.posted.iter().all(|posted| posted.url == ENDPOINT));
        assert_eq!(world.stats().metadata_requests, fetched.len() as u64);
    }
}

#[test]
fn a_document_that_cannot_be_used_is_refused_by_the_issuers_name_and_nothing_is_sent() {
    use FailureReason::{InvalidResponse, Misconfigured, Unavailable};
    let with = |name: &str, value: Value| {
        let mut document = metadata();
        document[name] = value;
        published(&document)
    };
    for (answer, reason) in [
        (with("issuer", json!("https://evil.example")), Misconfigured),
        (with("issuer", json!("https://login.example/tenant/")), Misconfigured),
        (with("token_endpoint", json!(null)), InvalidResponse),
        (with("token_endpoint", json!("http://login.example/token")), InvalidResponse),
        (with("token_endpoint", json!("http://127.0.0.1/token")), InvalidResponse),
        (Answer::respond(200, "<html>"), InvalidResponse),
        (Answer::respond(200, vec![b' '; 1024 * 1024 + 1]), InvalidResponse),
        (Answer::respond(302, ""), InvalidResponse),
        (Answer::respond(404, ""), Misconfigured),
        (Answer::respond(503, ""), Unavailable),
        (Answer::respond(429, ""), Unavailable),
        (Answer::transport(TransportFailure::Network), Unavailable),
        (Answer::transport(TransportFailure::TooLarge), InvalidResponse),
        (Answer::transport(TransportFailure::Redirected), InvalidResponse),
        (Answer::never(), Unavailable),
    ] {
        let mut world = world();
        for place in [OPENID, OAUTH] {
            world.metadata.insert(place.to_owned(), answer.clone());
        }
        let failure = world.ask(&request_of("ann", "read")).unwrap_err();
        assert_eq!((failure.reason, failure.field.as_deref()), (reason, Some("issuer")), "{answer:?}");
        assert!(world.posted.is_empty());
        world.metadata.insert(OPENID.to_owned(), published(&metadata()));
        assert!(world.ask(&request_of("ann", "read")).is_ok(), "nothing is kept of {answer:?}");
        world.assert_nothing_is_left();
    }
}

#[test]
fn a_document_of_another_issuer_at_one_place_does_not_hide_the_right_one_at_the_next() {
    let mut world = world();
    world.metadata.insert(
        OPENID.to_owned(),
        published(&json!({"issuer": "https://login.example", "token_endpoint": "https://evil.example"})),
    );
    world.metadata.insert(OAUTH.to_owned(), published(&metadata()));
    world.ask(&request_of("ann", "read")).unwrap();
    assert_eq!(world.posted[0].url, ENDPOINT);
}

#[test]
fn a_place_whose_server_is_away_does_not_hide_the_next_one() {
    for status in [408, 429, 500, 503] {
        let mut world = world();
        world.metadata.insert(OPENID.to_owned(), Answer::respond(status, ""));
        world.metadata.insert(OAUTH.to_owned(), published(&metadata()));
        world.ask(&request_of("ann", "read")).unwrap();
        assert_eq!(world.fetched, [OPENID, OAUTH]);
    }
}

#[test]
fn metadata_is_read_anew_after_an_hour_and_outlives_failed_looks_for_a_day() {
    let mut world = world();
    world.metadata.insert(OPENID.to_owned(), published(&metadata()));
    let mut number = 0;
    let mut ask = |world: &mut World| {
        number += 1;
        // Each time another user, so that no token is at hand.
        let assertion = assertion(&format!("user{number}"), at(48 * HOUR), 1);
        world.ask(&request_with(&assertion, "read")).map_err(|failure| failure.reason)
    };
    ask(&mut world).unwrap();
    world.advance(59 * MINUTE);
    ask(&mut world).unwrap();
    assert_eq!(world.fetched.len(), 1);
    world.advance(2 * MINUTE);
    ask(&mut world).unwrap();
    assert_eq!(world.fetched.len(), 2);
    world.metadata.insert(OPENID.to_owned(), Answer::respond(503, ""));
    world.advance(HOUR);
    ask(&mut world).unwrap();
    ask(&mut world).unwrap();
    assert_eq!(world.fetched.len(), 4, "both places, and no second look within a minute");
    world.advance(22 * HOUR);
    ask(&mut world).unwrap();
    world.advance(HOUR);
    assert_eq!(ask(&mut world), Err(FailureReason::Unavailable));
    assert_eq!(world.stats().metadata_failures, 4, "and its retry");
}

#[test]
fn what_the_metadata_says_of_clients_is_respected() {
    let mut document = metadata();
    document["token_endpoint_auth_methods_supported"] =
        json!(["client_secret_basic", "private_key_jwt", "tls_client_auth"]);
    document["token_endpoint_auth_signing_alg_values_supported"] = json!(["ES256"]);
    document["mtls_endpoint_aliases"] = json!({"token_endpoint": "https://mtls.login.example/token"});
    let key = |algorithm: &str| json!({"method": "private_key_jwt", "key": true, "algorithm": algorithm});
    for (authentication, expected) in [
        (json!({"method": "client_secret_basic", "clientSecret": "s"}), Ok(ENDPOINT)),
        (json!({"method": "tls_client_auth"}), Ok("https://mtls.login.example/token")),
        (json!({"method": "client_assertion", "clientAssertion": true}), Ok(ENDPOINT)),
        (key("ES256"), Ok(ENDPOINT)),
        (key("PS256"), Err("clientAuthentication.algorithm")),
        (json!({"method": "client_secret_post", "clientSecret": "s"}), Err("clientAuthentication.method")),
        (json!({"method": "none"}), Err("clientAuthentication.method")),
    ] {
        let mut world = World::with_options(options_of(&authentication), false);
        world.metadata.insert(OPENID.to_owned(), published(&document));
        let result = world.ask(&request_of("ann", "read"));
        match expected {
            Ok(endpoint) => assert_eq!((result.is_ok(), world.posted[0].url.as_str()), (true, endpoint)),
            Err(field) => {
                let failure = result.unwrap_err();
                assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::Misconfigured, Some(field)));
                assert!(world.posted.is_empty() && world.signed.is_empty());
                world.metadata.insert(OPENID.to_owned(), published(&metadata()));
                assert!(world.ask(&request_of("ann", "read")).is_ok(), "what was mended is read");
            }
        }
    }
}

#[test]
fn an_authority_that_is_no_tenant_is_refused_with_the_reason() {
    for host in ["login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"] {
        for tenant in ["common", "organizations", "consumers", "Common"] {
            let mut options = options();
            options["tokenEndpoint"] = json!(format!("https://{host}/{tenant}/oauth2/v2.0/token"));
            let failure = read_options(options, false).unwrap_err();
            assert_eq!(failure.field.as_deref(), Some("tokenEndpoint"));
            assert!(failure.message.contains("tenant's own"), "{failure}");
            let mut options = options_of(&crate::world::options()["clientAuthentication"]);
            options["issuer"] = json!(format!("https://{host}/{tenant}/v2.0"));
            assert_eq!(read_options(options, false).unwrap_err().field.as_deref(), Some("issuer"));
        }
    }
    let mut options = options();
    options["tokenEndpoint"] = json!("https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token");
    assert!(read_options(options, false).is_ok());
}

// ---------------------------------------------------------------- a look before the leap

fn jwt(claims: &Value) -> String {
    use base64ct::{Base64UrlUnpadded, Encoding};
    format!("e30.{}.c2ln", Base64UrlUnpadded::encode_string(claims.to_string().as_bytes()))
}

fn looking(grant: &str) -> World {
    let mut options = options();
    options["inspectAssertion"] = json!(null);
    options["grant"] = json!(grant);
    options["clientId"] = json!("11112222-bbbb-3333-cccc-4444dddd5555");
    World::with_options(options, false)
}

#[test]
fn an_assertion_that_would_be_refused_is_refused_without_a_request_and_with_its_own_message() {
    let start = at(0).as_millis() / 1000;
    let entra = "https://login.microsoftonline.com/t/v2.0";
    let mut messages = Vec::new();
    for claims in [
        json!({"scp": "a", "exp": start}),
        json!({"scp": "a", "nbf": start + 120, "exp": start + 3600}),
        json!({"nonce": "n", "iss": entra, "exp": start + 3600}),
        json!({"idtyp": "app", "iss": entra, "exp": start + 3600}),
        json!({"iss": entra, "exp": start + 3600}),
        json!({"scp": "a", "iss": entra, "aud": "https://graph.microsoft.com"}),
    ] {
        let mut world = looking("on-behalf-of");
        let failure = world.ask(&request_with(&jwt(&claims), "read")).unwrap_err();
        assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::AssertionRejected, Some("assertion")));
        assert!(!failure.retryable && world.posted.is_empty(), "{claims}");
        messages.push(failure.message.clone());
        let mut options = options();
        options["clientId"] = json!("11112222-bbbb-3333-cccc-4444dddd5555");
        let mut blind = World::with_options(options, false);
        let _ = blind.ask(&request_with(&jwt(&claims), "read"));
        assert_eq!(blind.posted.len(), 1, "the switch turns it off: {claims}");
    }
    messages.sort();
    messages.dedup();
    assert_eq!(messages.len(), 6, "{messages:?}");
}

#[test]
fn an_opaque_assertion_passes_and_other_grants_look_only_for_what_concerns_them() {
    let id_token = jwt(&json!({"nonce": "n", "aud": "https://graph.microsoft.com", "idtyp": "app"}));
    for (grant, assertion, requests) in [
        ("on-behalf-of", "opaque".to_owned(), 1),
        ("token-exchange", "opaque".to_owned(), 1),
        ("token-exchange", id_token.clone(), 0),
        ("token-exchange", jwt(&json!({"aud": "https://graph.microsoft.com", "idtyp": "app"})), 1),
        ("jwt-bearer", id_token, 1),
        ("jwt-bearer", jwt(&json!({"exp": 1})), 0),
    ] {
        let mut world = looking(grant);
        let _ = world.ask(&request_with(&assertion, "read"));
        assert_eq!(world.posted.len(), requests, "{grant} {assertion}");
    }
}

#[test]
fn an_assertion_that_ends_in_a_moment_still_gets_what_is_in_memory() {
    let mut world = looking("on-behalf-of");
    let request = request_with(&assertion("ann", at(HOUR), 1), "read");
    world.ask(&request).unwrap();
    world.advance(HOUR - 2 * SECOND);
    // The token's own last minutes are over by then: the look refuses the exchange.
    assert_eq!(world.ask(&request).unwrap_err().field.as_deref(), Some("assertion"));
    let mut world = looking("on-behalf-of");
    world.otherwise = Answer::token(7200);
    world.ask(&request).unwrap();
    world.advance(HOUR - 2 * SECOND);
    assert!(world.ask(&request).is_ok());
}
