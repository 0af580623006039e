//! Templates of sandboxes: each profile, and each image by its name with the other values of the profile `default`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use sandbox_api::Template;

use crate::config::{Config, DEFAULT_PROFILE, Profile};
use crate::job::Images;

/// Lists the names of all images.
pub type ImageNames = dyn Fn() -> Vec<String> + Send + Sync;

pub(super) struct Templates {
    profiles: BTreeMap<String, Profile>,
    images: Arc<Images>,
    image_names: Box<ImageNames>,
}

impl Templates {
    pub(super) fn new(config: &Config, images: Arc<Images>, image_names: Box<ImageNames>) -> Self {
        Self { profiles: config.profiles.clone(), images, image_names }
    }

    /// All templates whose images exist.
    pub(super) fn list(&self) -> Vec<Template> {
        let images = (self.image_names)().into_iter();
        let images = images.filter(|name| !self.profiles.contains_key(name));
        let images = images.filter_map(|name| self.of_image(name));
        let all = self.profiles.values().cloned().chain(images);
        all.filter_map(|profile| self.template(&profile)).collect()
    }

    /// The profile of a template.
    pub(super) fn profile(&self, name: &str) -> Option<Profile> {
        self.profiles.get(name).cloned().or_else(|| self.of_image(name.to_owned()))
    }

    fn of_image(&self, image: String) -> Option<Profile> {
        let default = self.profiles.get(DEFAULT_PROFILE)?;
        Some(Profile { name: image.clone(), image, warm: 0, ..default.clone() })
    }

    fn template(&self, profile: &Profile) -> Option<Template> {
        let image = (self.images)(profile).ok()?;
        let disk = fs::metadata(&image.disk_template).map_or(0, |file| file.len());
        Some(Template {
            name: profile.name.clone(),
            aliases: Vec::new(),
            vcpus: profile.resources.vcpus,
            memory_mib: profile.resources.memory_mib,
            disk_mib: profile.disk_mib.unwrap_or(disk >> 20),
        })
    }
}
