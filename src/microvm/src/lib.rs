//! What every virtual machine monitor needs.
