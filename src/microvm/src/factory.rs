//! Starts VMs: boots them, or restores them from a snapshot.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::error::chain;
use netns::Pool;
use nix::fcntl::Flock;
use sandbox::{Cancellation, Sandbox, SandboxConfig, SandboxFactory};
use vsock_host::Reactor;

use crate::snapshot::{self, Key, Store};
use crate::start_limiter::{Permit, StartLimiter};
use crate::start_request::{Purpose, StartRequest};
use crate::vm::Vm;
use crate::vmm::Vmm;
use crate::{Error, Result, layout, page_cache};

/// Starts VMs of one kind.
pub struct Factory<V> {
    state: PathBuf,
    reactor: Reactor,
    networks: Option<Arc<Pool>>,
    /// `None` if every VM is to boot.
    snapshots: Option<Store>,
    limiter: StartLimiter,
    vmm: Arc<V>,
}

impl<V: Vmm> Factory<V> {
    /// A factory of VMs of the kind `vmm`. Their folders are under `state`; `reactor` serves their guests.
    pub fn new(state: &Path, reactor: &Reactor, vmm: V) -> Self {
        let snapshots = Some(Store::new(state));
        let (state, reactor) = (state.to_owned(), reactor.clone());
        let (limiter, vmm) = (StartLimiter::of_host(), Arc::new(vmm));
        Self { state, reactor, networks: None, snapshots, limiter, vmm }
    }

    /// Sets the pool from which VMs lease their networks.
    #[must_use]
    pub fn with_networks(self, networks: Option<Arc<Pool>>) -> Self {
        Self { networks, ..self }
    }

    /// Lets every VM boot, also where there is a snapshot.
    #[must_use]
    pub fn without_snapshots(self) -> Self {
        Self { snapshots: None, ..self }
    }

    /// Boots a VM, warms it up, and saves it as the snapshot of its kind. An existing one is replaced.
    ///
    /// 1. boot, after the wait in the start queue, from which the deadline counts
    /// 2. warm up: the page cache, and `warm_up`
    /// 3. quiesce: file systems are flushed, nothing is in flight on the guest link. The connection
    ///    stays open, and is reset in each restored VM: the reset wakes the guest at once, while a guest
    ///    that had lost its host before would be sleeping in a back-off
    /// 4. pause and save
    /// 5. publish
    pub fn save(
        &self,
        config: &SandboxConfig,
        warm_up: &mut WarmUp<'_>,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> Result<()> {
        let (store, _lock) = self.lock_snapshots()?;
        self.save_in(store, self.request(config, cancellation, deadline), warm_up)
    }

    /// Saves a snapshot without a warm-up, unless there is one; of concurrent callers one saves it.
    /// `false` if there was one.
    pub fn ensure_saved(
        &self,
        config: &SandboxConfig,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> Result<bool> {
        let exists = |store: &Store| store.find(&*self.vmm, config).is_some();
        if self.snapshots.as_ref().is_some_and(exists) {
            return Ok(false);
        }
        let (store, _lock) = self.lock_snapshots()?;
        if exists(store) {
            return Ok(false);
        }
        let request = self.request(config, cancellation, deadline);
        self.save_in(store, request, &mut |_| Ok(())).map(|()| true)
    }

    fn lock_snapshots(&self) -> Result<(&Store, Flock<File>)> {
        let none = || Error::NoSnapshots { kind: self.vmm.kind() };
        let store = self.snapshots.as_ref().ok_or_else(none)?;
        Ok((store, store.lock()?))
    }

    fn save_in(
        &self,
        store: &Store,
        mut request: StartRequest,
        warm_up: &mut WarmUp<'_>,
    ) -> Result<()> {
        let none = || Error::NoSnapshots { kind: self.vmm.kind() };
        let key = Key::of(&*self.vmm, &request.config).ok_or_else(none)?;
        // 1 Boot.
        let permit = self.wait_in_queue(&mut request)?;
        let (id, deadline) = (request.config.id, request.deadline);
        let vm = Vm::start(request)?;
        drop(permit);
        // 2 Warm up.
        page_cache::fill(&vm, deadline)?;
        warm_up(&vm).map_err(|source| Error::WarmUp { source })?;
        // 3 Quiesce.
        vm.guest(deadline)?.quiesce(deadline).map_err(Error::Link)?;
        // 4 Save.
        if let Err(error) = vm.save(deadline) {
            return Err(vm.fail(error));
        }
        // 5 Publish.
        let monitors = layout::vms(&self.state).join(id.to_string()).join("vmm");
        store.publish(&key, &monitors)
    }

    fn request(
        &self,
        config: &SandboxConfig,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> StartRequest {
        StartRequest {
            state: self.state.clone(),
            config: config.clone(),
            vmm: Arc::clone(&self.vmm) as Arc<dyn Vmm>,
            reactor: self.reactor.clone(),
            networks: self.networks.clone(),
            snapshot: None,
            purpose: Purpose::Assigned,
            cancellation: cancellation.clone(),
            queued: Duration::ZERO,
            deadline,
        }
    }

    /// Waits until the VM may start; it may until the permit is dropped. The wait does not count
    /// against the request's deadline.
    fn wait_in_queue(&self, request: &mut StartRequest) -> Result<Option<Permit>> {
        let begun = Instant::now();
        let (id, vcpus) = (request.config.id, request.config.vcpus);
        let permit = self.limiter.acquire(id, vcpus, &request.cancellation)?;
        request.queued = begun.elapsed();
        request.deadline += request.queued;
        Ok(permit)
    }

    /// Restores a VM from its snapshot if there is a good one, else boots it, by `start`.
    fn start_vm(
        &self,
        mut request: StartRequest,
        start: fn(StartRequest) -> Result<Vm>,
    ) -> Result<Vm> {
        let _permit = self.wait_in_queue(&mut request)?;
        let store = self.snapshots.as_ref();
        let found = store.and_then(|store| Some((store, store.find(&*self.vmm, &request.config)?)));
        let Some((store, snapshot)) = found else { return start(request) };
        // Leaves enough time for a boot.
        let left = request.deadline.saturating_duration_since(Instant::now());
        let restore = StartRequest {
            snapshot: Some(snapshot.clone()),
            deadline: Instant::now() + left / 3,
            ..request.clone()
        };
        match start(restore) {
            Ok(vm) => {
                snapshot.record_restore_ok();
                Ok(vm)
            }
            Err(error) if snapshot::is_snapshot_fault(&error) => {
                log::warn!("a restore failed, so the vm boots; vm={}", request.config.id);
                if !snapshot::is_timeout(&error) || snapshot.record_restore_timeout() {
                    store.quarantine(&snapshot, &chain(&error));
                } else {
                    log::warn!("the snapshot will be tried again; reason={}", chain(&error));
                }
                start(request)
            }
            Err(error) if snapshot::was_removed(&error) => start(request),
            Err(error) => Err(error),
        }
    }
}

/// What a caller does in a VM before it is saved.
pub type WarmUp<'a> = dyn FnMut(&dyn Sandbox) -> std::result::Result<(), sandbox::Cause> + 'a;

impl<V: Vmm> SandboxFactory for Factory<V> {
    fn kind(&self) -> &'static str {
        self.vmm.kind()
    }

    fn start(
        &self,
        config: &SandboxConfig,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> sandbox::Result<Box<dyn Sandbox>> {
        let request = self.request(config, cancellation, deadline);
        boxed(config, self.start_vm(request, Vm::start))
    }

    fn make_ready(
        &self,
        config: &SandboxConfig,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> sandbox::Result<()> {
        if self.snapshots.is_none() || self.vmm.snapshot_identity().is_none() {
            return Ok(());
        }
        let saved = self.ensure_saved(config, cancellation, deadline).map(drop);
        saved.map_err(not_started(config))
    }

    fn prepare(
        &self,
        config: &SandboxConfig,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> sandbox::Result<Box<dyn Sandbox>> {
        let request = self.request(config, cancellation, deadline);
        boxed(config, self.start_vm(request, Vm::prepare))
    }
}

fn boxed(config: &SandboxConfig, started: Result<Vm>) -> sandbox::Result<Box<dyn Sandbox>> {
    Ok(Box::new(started.map_err(not_started(config))?))
}

fn not_started(config: &SandboxConfig) -> impl FnOnce(Error) -> sandbox::Error {
    let id = config.id.to_string();
    move |error| sandbox::Error::Start { id, source: error.into() }
}
