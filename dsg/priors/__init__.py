"""Pretrained diffusion models, behind one small interface. A prior is any object with

schedule                    `dsg.schedule.NoiseSchedule` of its forward process
shape                       (C, H, W) of what it diffuses
latent                      whether that is a latent; the task's images are `decode(x0)` either way
predict(x_t, t)             x_t [B, C, H, W], integer t -> eps [B, C, H, W] and v like it, or None where the
                            variance was not learned; differentiable in x_t
decode(x0)                  x0 -> image in [-1, 1]; the identity for a pixel prior
image_shape                 optional: (3, H, W) of decode(x0), where it is not `shape`
set_prompts(prompts)        optional: a text (or None) for each picture of the next batches; None: the prior's own
text_rms                    optional: [B], after `predict`: RMS of s (eps_text - eps_0), for sampler.scaling=text
learns_variance             optional: whether `predict` gives v, so that a kernel that needs it is refused at once
weights_hash                what identifies the weights in a result's identity
to(device)                  as of any `torch.nn.Module`
"""
