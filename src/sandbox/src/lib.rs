//! What a sandbox is: the trait and its vocabulary.
