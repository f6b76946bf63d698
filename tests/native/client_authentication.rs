//! How the client proves itself, with keys and callbacks that the host holds.

use base64ct::{Base64UrlUnpadded, Encoding};
use obo_edge::action::Event;
use obo_edge::failure::FailureReason;
use serde_json::{Value, json};

use crate::world::{Answer, MINUTE, World, anew, client_assertion, options, options_with, request_of, request_with};

const ENDPOINT: &str = "https://login.example/tenant/oauth2/v2.0/token";
const ISSUER: &str = "https://login.example/tenant";

fn world(grant: &str, authentication: Value) -> World {
    let mut options = options_with("clientAuthentication", authentication);
    options["grant"] = json!(grant);
    options["issuer"] = json!(ISSUER);
    let mut world = World::with_options(options, false);
    world.otherwise = token();
    world
}

fn token() -> Answer {
    let issued = "urn:ietf:params:oauth:token-type:access_token";
    let body = json!({"access_token": "t", "token_type": "Bearer", "issued_token_type": issued, "expires_in": 3600});
    Answer::respond(200, body.to_string())
}

fn key() -> Value {
    json!({"method": "private_key_jwt", "key": true, "algorithm": "PS256", "kid": "k1"})
}

fn callback() -> Value {
    json!({"method": "client_assertion", "clientAssertion": true})
}

fn claims(world: &World, number: usize) -> Value {
    serde_json::from_str(&world.signed[number].2).unwrap()
}

#[test]
fn a_signed_client_assertion_goes_out_with_its_type_and_the_clients_id() {
    let mut world = world("jwt-bearer", key());
    world.client_assertions.push_back(client_assertion("e30.e30.c2ln"));
    world.ask(&request_with("user.token", "read")).unwrap();
    assert_eq!(world.posted[0].authorization, None);
    assert_eq!(
        world.posted[0].body,
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=user.token&scope=read\
         &client_id=gateway\
         &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
         &client_assertion=e30.e30.c2ln"
    );
    let (server, header, _) = &world.signed[0];
    assert_eq!((*server, header.as_str()), (0, r#"{"alg":"PS256","typ":"JWT","kid":"k1"}"#));
    let claims = claims(&world, 0);
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["aud"]),
        (&json!("gateway"), &json!("gateway"), &json!(ISSUER))
    );
    let now = world.now().as_millis() / 1000;
    assert_eq!((&claims["nbf"], &claims["exp"]), (&json!(now), &json!(now + 60)));
}

#[test]
fn every_token_request_but_entras_carries_an_assertion_of_its_own_a_retry_included() {
    for grant in ["token-exchange", "jwt-bearer"] {
        let mut world = world(grant, key());
        world.answers.push_back(Answer::error(503, "server_error", &[]));
        world.ask(&request_of("ann", "read")).unwrap();
        world.ask(&request_of("bob", "read")).unwrap();
        world.ask(&anew(request_of("bob", "read"))).unwrap();
        assert_eq!((world.posted.len(), world.signed.len()), (4, 4), "{grant}");
        let mut identifiers: Vec<String> = (0..4).map(|number| claims(&world, number)["jti"].to_string()).collect();
        identifiers.sort();
        identifiers.dedup();
        assert_eq!(identifiers.len(), 4, "{grant}");
    }
}

#[test]
fn entras_client_assertion_is_made_for_the_token_endpoint_and_serves_until_shortly_before_its_end() {
    let mut world = world("on-behalf-of", key());
    for user in ["ann", "bob", "eve"] {
        world.ask(&request_of(user, "read")).unwrap();
    }
    assert_eq!((world.posted.len(), world.signed.len()), (3, 1));
    assert_eq!(claims(&world, 0)["aud"], ENDPOINT);
    assert_eq!(claims(&world, 0)["exp"].as_u64().unwrap() - claims(&world, 0)["iat"].as_u64().unwrap(), 600);
    world.advance(8 * MINUTE);
    world.ask(&request_of("dan", "read")).unwrap();
    assert_eq!(world.signed.len(), 1);
    world.advance(MINUTE);
    world.ask(&request_of("fay", "read")).unwrap();
    assert_eq!(world.signed.len(), 2);
    // Before it was made: nobody knows what the clock of the next server shows.
    world.clock_jumps(-600_000);
    world.ask(&request_of("gil", "read")).unwrap();
    assert_eq!(world.signed.len(), 3);
}

#[test]
fn a_kept_client_assertion_that_entra_refuses_is_made_anew_once() {
    for code in [700_027, 700_024, 7_000_214, 1_000_502, 7_000_274, 7_000_277] {
        let mut world = world("on-behalf-of", key());
        world.ask(&request_of("ann", "read")).unwrap();
        world.answers.push_back(Answer::error(401, "invalid_client", &[code]));
        world.ask(&request_of("bob", "read")).unwrap();
        assert_eq!((world.posted.len(), world.signed.len()), (3, 2), "{code}");
        assert!(world.slept.is_empty());
        // Refused again: no third one in this exchange, and a fresh one was not worth a second.
        world.otherwise = Answer::error(401, "invalid_client", &[code]);
        let failure = world.ask(&request_of("eve", "read")).unwrap_err();
        assert_eq!(failure.reason, FailureReason::Misconfigured);
        assert_eq!((world.posted.len(), world.signed.len()), (5, 3), "{code}");
    }
}

#[test]
fn a_wrong_secret_or_an_unknown_client_is_never_tried_again() {
    for codes in [&[7_000_215][..], &[700_016], &[700_027, 7_000_215], &[]] {
        let mut world = world("on-behalf-of", key());
        world.ask(&request_of("ann", "read")).unwrap();
        world.otherwise = Answer::error(401, "invalid_client", codes);
        assert_eq!(world.ask(&request_of("bob", "read")).unwrap_err().reason, FailureReason::Misconfigured);
        assert_eq!((world.posted.len(), world.signed.len()), (2, 1), "{codes:?}");
    }
}

#[test]
fn the_callback_is_asked_for_each_token_request_and_what_it_gives_is_not_kept() {
    for grant in ["on-behalf-of", "token-exchange"] {
        let mut world = world(grant, callback());
        for user in ["ann", "bob"] {
            world.ask(&request_of(user, "read")).unwrap();
        }
        assert_eq!(world.obtained, [0, 0]);
        let first = Base64UrlUnpadded::encode_string(b"1");
        assert!(world.posted[0].body.ends_with(&format!("client_assertion=e30.{first}.c2ln")));
        assert!(!world.posted[1].body.contains(&first));
    }
}

#[test]
fn a_callback_that_fails_is_tried_again_as_a_server_is_and_nothing_is_sent() {
    let mut world = world("token-exchange", callback());
    world.client_assertions.extend([Event::ClientAssertionFailed, Event::ClientAssertionFailed]);
    let failure = world.ask(&request_of("ann", "read")).unwrap_err();
    assert_eq!(failure.reason, FailureReason::Unavailable);
    assert_eq!(failure.field.as_deref(), Some("clientAuthentication.clientAssertion"));
    assert_eq!((world.posted.len(), world.obtained.len()), (0, 2));
    assert!(world.ask(&request_of("ann", "read")).is_ok(), "nothing is kept of it");
}

#[test]
fn what_is_no_jwt_and_a_key_that_cannot_sign_are_ours_to_mend_and_nothing_is_sent() {
    for (authentication, event, field) in [
        (callback(), client_assertion("hunter2"), "clientAuthentication.clientAssertion"),
        (callback(), client_assertion(""), "clientAuthentication.clientAssertion"),
        (key(), client_assertion("a.b.c&scope=admin"), "clientAuthentication.key"),
        (key(), Event::ClientAssertionFailed, "clientAuthentication.key"),
    ] {
        let mut world = world("on-behalf-of", authentication);
        world.client_assertions.push_back(event);
        let failure = world.ask(&request_of("ann", "read")).unwrap_err();
        assert_eq!((failure.reason, failure.field.as_deref()), (FailureReason::Misconfigured, Some(field)));
        assert!(!failure.to_string().contains("hunter2"));
        assert!(world.posted.is_empty());
        assert!(world.ask(&request_of("ann", "read")).is_ok(), "nothing is kept of it");
    }
}

#[test]
fn without_an_issuer_a_client_assertion_is_made_for_the_token_endpoint() {
    let mut options = options();
    options["clientAuthentication"] = key();
    options["grant"] = json!("jwt-bearer");
    let mut world = World::with_options(options, false);
    world.ask(&request_with("user.token", "read")).unwrap();
    assert_eq!(claims(&world, 0)["aud"], ENDPOINT);
}

#[test]
fn a_client_without_a_secret_sends_its_id_alone() {
    for method in ["none", "tls_client_auth"] {
        let mut world = world("jwt-bearer", json!({"method": method}));
        world.ask(&request_with("user.token", "read")).unwrap();
        assert_eq!(
            world.posted[0].body,
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=user.token&scope=read\
             &client_id=gateway"
        );
    }
}
