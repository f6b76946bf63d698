//! The token request as it leaves, byte for byte.

use obo_edge::request::RequestField;
use serde_json::{Value, json};

use crate::world::{World, options, request_with};

const ENDPOINT: &str = "https://login.example/tenant/oauth2/v2.0/token";

fn world(method: &str, client_id: &str, client_secret: &str) -> World {
    let mut options: Value = options();
    options["clientId"] = json!(client_id);
    options["clientAuthentication"] = json!({"method": method, "clientSecret": client_secret});
    World::with_options(options, false)
}

#[test]
fn client_secret_post_sends_all_in_the_body() {
    let mut world = world("client_secret_post", "11112222-bbbb-3333-cccc-4444dddd5555", "s&c=r+t /~\u{e4}%");
    world
        .ask(&request_with("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln-_", "https://graph.example/user.read"))
        .unwrap();
    let posted = &world.posted[0];
    assert_eq!(posted.url, ENDPOINT);
    assert_eq!(posted.authorization, None);
    assert_eq!(
        posted.body,
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer\
         &requested_token_use=on_behalf_of\
         &assertion=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln-_\
         &scope=https%3A%2F%2Fgraph.example%2Fuser.read\
         &client_id=11112222-bbbb-3333-cccc-4444dddd5555\
         &client_secret=s%26c%3Dr%2Bt+%2F%7E%C3%A4%25"
    );
}

#[test]
fn client_secret_basic_sends_id_and_secret_in_the_header_form_urlencoded_before_they_are_joined() {
    let mut world = world("client_secret_basic", "gate:way", "p&s s+/%");
    world.ask(&request_with("user.token", "read")).unwrap();
    let posted = &world.posted[0];
    // base64("gate%3Away:p%26s+s%2B%2F%25")
    assert_eq!(posted.authorization.as_deref(), Some("Basic Z2F0ZSUzQXdheTpwJTI2cytzJTJCJTJGJTI1"));
    assert_eq!(
        posted.body,
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer\
         &requested_token_use=on_behalf_of&assertion=user.token&scope=read"
    );
}

#[test]
fn claims_go_along_as_they_were_given() {
    for method in ["client_secret_post", "client_secret_basic"] {
        let mut world = world(method, "gateway", "secret");
        let mut request = request_with("user.token", "b a");
        request.set(RequestField::Claims, r#"{"access_token": {"acrs": {"essential": true, "value": "c1"}}}"#).unwrap();
        world.ask(&request).unwrap();
        let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer\
             &requested_token_use=on_behalf_of&assertion=user.token&scope=a+b\
             &claims=%7B%22access_token%22%3A+%7B%22acrs%22%3A+%7B%22essential%22%3A+true%2C+%22value%22%3A+%22c1%22%7D%7D%7D";
        let client = if method == "client_secret_post" { "&client_id=gateway&client_secret=secret" } else { "" };
        assert_eq!(world.posted[0].body, format!("{grant}{client}"));
    }
}

#[test]
fn a_retry_sends_the_very_same_request() {
    let mut world = world("client_secret_basic", "gateway", "secret");
    world.answers.push_back(crate::world::Answer::error(503, "server_error", &[]));
    world.ask(&request_with("user.token", "read")).unwrap();
    let [first, second] = &world.posted[..] else { panic!("{:?}", world.posted) };
    assert_eq!((&first.body, &first.authorization, &first.url), (&second.body, &second.authorization, &second.url));
}

#[test]
fn the_body_can_carry_nothing_that_the_request_did_not_name() {
    let mut world = world("client_secret_post", "gateway", "a&grant_type=password");
    world.ask(&request_with("user.token&client_id=other", "read&scope=admin write")).unwrap();
    let names: Vec<_> =
        form_urlencoded::parse(world.posted[0].body.as_bytes()).map(|(name, _)| name.into_owned()).collect();
    assert_eq!(names, ["grant_type", "requested_token_use", "assertion", "scope", "client_id", "client_secret"]);
}
