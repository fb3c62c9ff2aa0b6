//! A provider, a gateway and a customer with a dollar, for what must not cost any of it.

use super::{Account, Client, Customer, Gateway, Settings, Simulated, audit};

/// See the module.
pub struct Scene {
    pub provider: Simulated,
    pub gateway: Gateway,
    pub customer: Customer,
}

pub fn scene() -> Scene {
    scene_with(&Settings::default())
}

pub fn scene_with(settings: &Settings) -> Scene {
    let provider = Simulated::start();
    let gateway = Gateway::start_with(&[Account::of(&provider)], settings);
    let customer = gateway.customer("1.00");
    Scene { provider, gateway, customer }
}

impl Scene {
    pub fn clients(&self) -> [Client; 2] {
        Client::both(&self.gateway, &self.customer)
    }

    /// Nothing was charged, nothing is held, and the provider saw this many requests.
    pub async fn cost_nothing(self, attempts: usize) {
        self.gateway.settles_at(&self.customer, "1.00").await;
        assert_eq!(self.provider.provider.log().len(), attempts);
        let audit = audit(self.gateway, &[]);
        assert_eq!((audit.reported, audit.estimated), (0, 0), "{audit:#?}");
    }
}
