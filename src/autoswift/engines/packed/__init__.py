"""Many LoRA trials on one resident base: one worker process a device, any number of trials that come and go."""
