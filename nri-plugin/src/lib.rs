//! nri-plugin
