//! Counters: written by one worker each, read by control at any time.
