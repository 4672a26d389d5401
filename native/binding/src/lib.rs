//! The thin border between Node and the engine: values are checked and converted here, nothing is decided. A panic
//! becomes a JavaScript error and never crosses.
mod background;
mod engine;
mod input;
mod netns;
mod output;
