//! What JavaScript gives: the operator's own objects, timers and random bytes.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;

use js_sys::{Array, Function, Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    /// The operator's own objects, as `pkg/host.js` hands them over.
    pub type Host;

    /// `fetch(url, init)`.
    #[wasm_bindgen(method, catch)]
    pub fn fetch(this: &Host, url: &str, init: &web_sys::RequestInit) -> Result<JsValue, JsValue>;

    /// A JWT with this header and these claims, signed with the client's key at this server.
    #[wasm_bindgen(method, catch)]
    pub fn sign(this: &Host, server: usize, header: &str, claims: &str) -> Result<JsValue, JsValue>;

    /// What the operator's callback gives for this server.
    #[wasm_bindgen(method, catch, js_name = clientAssertion)]
    pub fn client_assertion(this: &Host, server: usize) -> Result<JsValue, JsValue>;

    /// Asks the coordinator's object of this name. `fields` are those of the request, each name before its value.
    #[wasm_bindgen(method, catch)]
    pub fn coordinate(
        this: &Host,
        name: &str,
        fields: &Array,
        from_cache: bool,
        shared: bool,
    ) -> Result<JsValue, JsValue>;

    /// Has the coordinator's object of this name forget its token.
    #[wasm_bindgen(method, catch, js_name = evictCoordinated)]
    pub fn evict_coordinated(
        this: &Host,
        name: &str,
        fields: &Array,
        refused: bool,
        shared: bool,
    ) -> Result<JsValue, JsValue>;

    /// Whether there is a coordinator.
    #[wasm_bindgen(method, getter, js_name = hasCoordinator)]
    pub fn has_coordinator(this: &Host) -> bool;

    /// Whether the operator gave a `fetch`.
    #[wasm_bindgen(method, getter, js_name = hasFetch)]
    pub fn has_fetch(this: &Host) -> bool;

    /// The store, or `undefined`.
    #[wasm_bindgen(method, getter)]
    pub fn store(this: &Host) -> JsValue;

    /// Who listens to events.
    #[wasm_bindgen(method, getter, js_name = onEvent)]
    pub fn on_event(this: &Host) -> Option<Function>;

    /// A Workers KV namespace, or anything with its methods.
    pub type Store;

    #[wasm_bindgen(method, catch)]
    pub fn get(this: &Store, name: &str) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    pub fn put(this: &Store, name: &str, value: &str, options: &JsValue) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch)]
    pub fn delete(this: &Store, name: &str) -> Result<JsValue, JsValue>;

    /// A reader of a stream; throws where the stream has one already.
    #[wasm_bindgen(method, catch, js_name = getReader)]
    fn reader(this: &Stream) -> Result<web_sys::ReadableStreamDefaultReader, JsValue>;

    /// A stream that somebody else may be reading.
    pub type Stream;

    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, milliseconds: f64) -> JsValue;

    #[wasm_bindgen(js_name = clearTimeout)]
    fn clear_timeout(timer: &JsValue);

    #[wasm_bindgen(js_namespace = crypto, js_name = getRandomValues)]
    fn get_random_values(bytes: &Uint8Array);
}

/// A reader of a stream, if nobody else has one.
pub(super) fn get_reader(stream: &Stream) -> Result<web_sys::ReadableStreamDefaultReader, JsValue> {
    stream.reader()
}

/// Fresh random bytes.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let array = Uint8Array::new_with_length(N as u32);
    get_random_values(&array);
    let mut bytes = [0; N];
    array.copy_to(&mut bytes);
    bytes
}

/// A timer of the runtime's. Dropped, it is cleared.
struct Timer {
    id: JsValue,
    resolve: JsValue,
    over: JsFuture,
}

impl Timer {
    fn new(milliseconds: u64) -> Self {
        let (mut id, mut resolve) = (JsValue::UNDEFINED, JsValue::UNDEFINED);
        let over = Promise::new(&mut |function, _| {
            id = set_timeout(&function, milliseconds as f64);
            resolve = function.into();
        });
        Self { id, resolve, over: JsFuture::from(over) }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        clear_timeout(&self.id);
        // What awaits a promise is freed when it is settled, and never before.
        let _ = self.resolve.unchecked_ref::<Function>().call0(&JsValue::UNDEFINED);
    }
}

/// Waits.
pub(super) async fn sleep(milliseconds: u64) {
    let mut timer = Timer::new(milliseconds);
    // A timer's promise does not reject.
    let _ = (&mut timer.over).await;
}

/// What `work` comes to, or `None` once the time is up: whatever JavaScript promised, the wait ends.
pub(super) async fn within<T>(milliseconds: u64, work: impl Future<Output = T>) -> Option<T> {
    let mut timer = pin!(sleep(milliseconds));
    let mut work = pin!(work);
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => timer.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// Awaits what a function of JavaScript's returned, a promise or not.
pub(super) async fn settled(returned: Result<JsValue, JsValue>) -> Result<JsValue, JsValue> {
    JsFuture::from(Promise::resolve(&returned?)).await
}
