//! What an operator calls a callee: `shop`, `shop/orders`, or `orders` where there is only one of that name. A name that is
//! nobody's is refused with the nearest that is somebody's: break-glass on a slip of the pen would open nothing, and say so
//! to nobody.

use std::collections::BTreeSet;

use isthmus_control::validate::field::nearest;
use isthmus_proto::admin::v1 as wire;

use crate::connect::Admin;
use crate::failure::Failure;
use crate::operator::OperatorArgs;

/// Of which callee. Both empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) service: String,
}

impl Target {
    /// The one that is meant, of those that the control plane has.
    pub(crate) async fn find(text: &str, operator: &OperatorArgs) -> Result<Target, Failure> {
        let mut admin = Admin::connect(operator).await?;
        let answer =
            admin.call(async |client| client.list_services(wire::ListServicesRequest::default()).await).await?;
        Target::among(text, answer.services.iter().map(|service| (service.namespace.as_str(), service.name.as_str())))
    }

    /// The same; nothing asked for is all.
    pub(crate) async fn find_or_all(text: Option<&str>, operator: &OperatorArgs) -> Result<Target, Failure> {
        match text {
            Some(text) => Target::find(text, operator).await,
            None => Ok(Target::default()),
        }
    }

    fn among<'a>(text: &str, services: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Target, Failure> {
        let services: BTreeSet<_> = services.collect();
        let target = |namespace: &str, service: &str| Target { namespace: namespace.into(), service: service.into() };
        if let Some((namespace, service)) = text.split_once('/') {
            return match services.contains(&(namespace, service)) {
                true => Ok(target(namespace, service)),
                false => Err(unknown(text, services.iter().map(|(namespace, name)| format!("{namespace}/{name}")))),
            };
        }
        let of_name: Vec<_> = services.iter().filter(|(_, name)| *name == text).collect();
        let is_namespace = services.iter().any(|(namespace, _)| *namespace == text);
        match (of_name.as_slice(), is_namespace) {
            ([], true) => Ok(target(text, "")),
            ([(namespace, service)], false) => Ok(target(namespace, service)),
            ([], false) => {
                let names = services.iter().flat_map(|(namespace, name)| [(*namespace).to_owned(), (*name).to_owned()]);
                Err(unknown(text, names))
            }
            (several, _) => {
                let mut all: Vec<String> = several.iter().map(|(ns, name)| format!("Service {ns}/{name}")).collect();
                all.extend(is_namespace.then(|| format!("namespace {text}")));
                let advice = if is_namespace {
                    "rename one of them, or go service by service"
                } else {
                    "write NAMESPACE/SERVICE"
                };
                Err(Failure::usage(format!("`{text}` may be {}", all.join(" or ")), advice))
            }
        }
    }

    /// As it is shown.
    pub(crate) fn name(&self) -> String {
        match self.service.as_str() {
            "" => self.namespace.clone(),
            service => format!("{}/{service}", self.namespace),
        }
    }
}

fn unknown(text: &str, known: impl Iterator<Item = String>) -> Failure {
    let known: BTreeSet<String> = known.collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let meant = nearest(text, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let what = if text.contains('/') { "Service" } else { "Service or namespace" };
    Failure::new(format!("there is no {what} `{text}`{meant}"), "`isthmus services` lists them")
}

#[cfg(test)]
#[path = "target_test.rs"]
mod target_test;
