//! One evaluation of the network for a step: all rows in one batch, or the two rows of a single picture apart.

use tch::Tensor;

use super::{APART_AT_MOST, StableDiffusion};
use crate::apart::Threads;
use crate::error::{Error, Result};
use crate::method::score::Plan;
use crate::method::{Arithmetic, Settings};
use crate::model::unet::{Tap, TextContext};

/// The keys and values of a batch's texts.
pub(super) enum Texts<'a> {
    /// All in one batch: with guidance the negative prompts, then the prompts.
    Together { all: TextContext, first_conditional: i64 },
    /// Of a single picture whose rows are apart: with guidance its negative prompt, and its prompt.
    Apart { threads: &'a Threads, unconditional: Option<TextContext>, conditional: TextContext },
}

impl Texts<'_> {
    /// The prompt of picture `index` alone.
    pub(super) fn conditional(&self, index: i64) -> Result<TextContext> {
        match self {
            Self::Together { all, first_conditional } => all.copies(first_conditional + index, 1),
            Self::Apart { conditional, .. } => Ok(conditional.shallow_clone()),
        }
    }
}

/// What the network says of a batch, `[B, 4, h, w]` each.
pub(super) struct Predicted {
    /// `ε_u`, where guidance is in use.
    pub(super) unconditional: Option<Tensor>,
    /// `ε_c`.
    pub(super) conditional: Tensor,
    /// What was captured of the conditional rows on the way.
    pub(super) tap: Tap,
}

impl Predicted {
    /// `ε_u + g (ε_c − ε_u)`, with a scale for each picture.
    pub(super) fn guided(&self, scales: &Tensor) -> Result<Tensor> {
        Ok(match &self.unconditional {
            Some(unconditional) => unconditional.f_add(&self.conditional.f_sub(unconditional)?.f_mul(scales)?)?,
            None => self.conditional.shallow_clone(),
        })
    }
}

impl StableDiffusion {
    /// The threads on which groups of pictures of these settings are made apart. Decided by what was configured and
    /// nothing else: a picture made apart is not the same to the last bit as one made in a whole batch.
    pub(super) fn threads_for(&self, settings: &Settings) -> Option<&Threads> {
        let factor = self.vae.factor() as usize;
        let positions = (settings.width as usize / factor) * (settings.height as usize / factor);
        let small = self.unet.parameters().saturating_mul(positions) <= APART_AT_MOST;
        self.threads.as_ref().filter(|_| self.options.apart.unwrap_or(small))
    }

    /// Keys and values of texts, given by their hidden states `[1, T, C]`, with no negative ones where there is no
    /// guidance; for a picture whose rows are `apart`, with the threads for them.
    pub(super) fn prepare_texts<'a>(
        &self,
        apart: Option<&'a Threads>,
        negatives: &[Tensor],
        prompts: &[Tensor],
    ) -> Result<Texts<'a>> {
        let prepare = |texts: &[Tensor]| self.unet.prepare_text(&Tensor::f_cat(texts, 0)?);
        Ok(match apart {
            Some(threads) => Texts::Apart {
                threads,
                unconditional: if negatives.is_empty() { None } else { Some(prepare(negatives)?) },
                conditional: prepare(prompts)?,
            },
            None => {
                let all: Vec<&Tensor> = negatives.iter().chain(prompts).collect();
                let all = self.unet.prepare_text(&Tensor::f_cat(&all, 0)?)?;
                Texts::Together { all, first_conditional: negatives.len() as i64 }
            }
        })
    }

    /// Evaluates the network for `input` `[B, 4, h, w]`, with what the `plan` of an edit wants captured.
    pub(super) fn predict(
        &self,
        input: &Tensor,
        timestep: f64,
        texts: &Texts<'_>,
        plan: Option<&Plan>,
    ) -> Result<Predicted> {
        match texts {
            Texts::Together { all, first_conditional } => {
                let mut tap = plan.map_or_else(Tap::default, Plan::tap);
                tap.first = *first_conditional;
                // On a CPU rows that are not scored stay as they ever were, to the last bit.
                let on_gpu = self.arithmetic == Arithmetic::Gpu;
                tap.spares = on_gpu;
                let (unconditional, conditional) = if *first_conditional > 0 {
                    // What comes before the first text is the same for both halves. On a CPU it is computed for each all the
                    // same: oneDNN may round the convolutions of one row otherwise than those of two.
                    let both = if on_gpu { input.shallow_clone() } else { Tensor::f_cat(&[input, input], 0)? };
                    let output = self.unet.forward(&both, timestep, all, &mut tap)?;
                    let mut halves = output.f_chunk(2, 0)?;
                    let conditional = halves.remove(1);
                    (halves.pop(), conditional)
                } else {
                    (None, self.unet.forward(input, timestep, all, &mut tap)?)
                };
                Ok(Predicted { unconditional, conditional, tap })
            }
            Texts::Apart { threads, unconditional, conditional } => {
                let row = |text: &TextContext, tap: Tap| (input.shallow_clone(), text.shallow_clone(), tap);
                let mut rows = Vec::with_capacity(2);
                rows.extend(unconditional.as_ref().map(|text| row(text, Tap::default())));
                rows.push(row(conditional, plan.map_or_else(Tap::default, Plan::tap)));
                let work = |(input, text, mut tap): (Tensor, TextContext, Tap)| {
                    Ok((self.unet.forward(&input, timestep, &text, &mut tap)?, tap))
                };
                let mut done = threads.each(rows, work)?;
                let (conditional, tap) =
                    done.pop().ok_or_else(|| Error::Torch("the network gave no output".to_owned()))?;
                let unconditional = done.pop().map(|(output, _)| output);
                Ok(Predicted { unconditional, conditional, tap })
            }
        }
    }
}
