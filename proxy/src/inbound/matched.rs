//! The app receives what was matched: where a rule looks at paths, a request's path goes on in the form that it was
//! compared in.

use std::borrow::Cow;

use http::{Request, Uri};

use crate::reason::Reason;
use crate::state::policy::path::normalise;

/// A path that has no normal form stays as it is: rules take it as unknown.
pub(super) fn normalise_path<B>(request: &mut Request<B>) -> Result<(), Reason> {
    let Some(Cow::Owned(path)) = normalise(request.uri().path()) else { return Ok(()) };
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(target.try_into().map_err(|_| Reason::MalformedRequest)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Reason::MalformedRequest)?;
    Ok(())
}
