//! What a quantised matrix consists of, and how many elements that is.

use super::super::Weights;
use crate::model::dtype::Dtype;

/// One matrix (or the same matrix of every expert) on one rank, `width` outputs by `input`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    /// Matrices alike; 1 but for experts.
    pub(super) count: u64,
    /// Outputs side by side that were quantised apart (query, key, value; gate, up).
    pub(super) parts: u64,
    pub(super) width: u64,
    pub(super) input: u64,
    /// Blocks of scales begin anew with each part, rather than run through all of them.
    pub(super) blocks_by_part: bool,
}

/// The tensors that stand for one matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// What the elements are kept in.
    pub(super) container: Dtype,
    /// Bits of one element; as many to a container as fit, without gaps between containers.
    pub(super) bits: u64,
    /// Elements of which axis share a container.
    pub(super) packed: Axis,
    pub(super) scale: Option<Scale>,
    /// Zero points, packed as the elements are, one to a scale.
    pub(super) zeros: Option<Dtype>,
    /// Everything small: global scales, input scales, the matrix's dimensions.
    pub(super) scalars: Vec<Scalar>,
}

/// So many elements of a type (`None`: the model's), for each part or for each matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) dtype: Option<Dtype>,
    pub(super) per: Per,
    pub(super) count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Per {
    Part,
    Matrix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Input,
    Output,
}

/// Scales: of which type (`None`: the model's), and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scale {
    pub(super) dtype: Option<Dtype>,
    pub(super) grain: Grain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    /// One a part.
    Part,
    /// One an output.
    Output,
    /// One an output and so many inputs.
    Group(u64),
    /// One so many outputs and so many inputs.
    Block(u64, u64),
}

impl Form {
    /// Elements of their own width, with the scales given.
    pub(super) fn of(container: Dtype, scale: Option<Dtype>, grain: Grain) -> Self {
        Self {
            container,
            bits: container.bytes() * 8,
            packed: Axis::Input,
            scale: Some(Scale { dtype: scale, grain }),
            zeros: None,
            scalars: Vec::new(),
        }
    }

    /// 8-bit floats with single-precision scales.
    pub(super) fn fp8(grain: Grain) -> Self {
        Self::of(Dtype::Fp8E4m3, Some(Dtype::Float32), grain)
    }

    /// 8-bit integers with single-precision scales.
    pub(super) fn int8(grain: Grain) -> Self {
        Self::of(Dtype::Int8, Some(Dtype::Float32), grain)
    }

    /// Two 4-bit floats a byte, an 8-bit scale each 16, a global scale a part, and an input scale
    /// a part where activations are quantised too.
    pub(super) fn nvfp4(group: u64, has_input_scale: bool) -> Self {
        let form = Self::of(Dtype::Uint8, Some(Dtype::Fp8E4m3), Grain::Group(group));
        let scalars = if has_input_scale { 2 } else { 1 };
        Self { bits: 4, ..form }.scalar(Dtype::Float32, Per::Part, scalars)
    }

    /// Two 4-bit floats a byte, a power of two each 32.
    pub(super) fn mxfp4() -> Self {
        Self::mx(Dtype::Uint8, 4)
    }

    /// 8-bit floats, a power of two each 32.
    pub(super) fn mxfp8() -> Self {
        Self::mx(Dtype::Fp8E4m3, 8)
    }

    pub(super) fn mx(container: Dtype, bits: u64) -> Self {
        Self { bits, ..Self::of(container, Some(Dtype::Uint8), Grain::Group(32)) }
    }

    /// Integers packed in 32 bits, scales of the model's dtype; `group` 0: one an output.
    pub(super) fn packed(bits: u64, group: u64, packed: Axis) -> Self {
        let grain = if group == 0 { Grain::Output } else { Grain::Group(group) };
        Self { bits, packed, ..Self::of(Dtype::Int32, None, grain) }
    }

    pub(super) fn zeros(mut self, has_zeros: bool) -> Self {
        self.zeros = has_zeros.then_some(self.container);
        self
    }

    /// With `count` more elements for each part or matrix; `dtype` `None` is the model's.
    pub(super) fn scalar(mut self, dtype: impl Into<Option<Dtype>>, per: Per, count: u64) -> Self {
        self.scalars.push(Scalar { dtype: dtype.into(), per, count });
        self
    }

    /// With one single-precision scale of the input.
    pub(super) fn input_scale(self, per: Per, is_static: bool) -> Self {
        if is_static { self.scalar(Dtype::Float32, per, 1) } else { self }
    }

    /// Adds the tensors of one matrix.
    pub(super) fn add(&self, matrix: &Matrix, dtype: Dtype, weights: &mut Weights) {
        let mut add = |dtype, elements: u64| {
            weights.add(dtype, elements.saturating_mul(matrix.count));
        };
        add(self.container, self.elements(matrix.width, matrix.input));
        if let Some(Scale { dtype: own, grain }) = self.scale {
            add(own.unwrap_or(dtype), matrix.scales(grain));
            if let Some(zeros) = self.zeros {
                let bits = matrix.scales(grain).saturating_mul(self.bits);
                add(zeros, bits.div_ceil(zeros.bytes() * 8));
            }
        }
        for scalar in &self.scalars {
            let times = if scalar.per == Per::Part { matrix.parts } else { 1 };
            add(scalar.dtype.unwrap_or(dtype), scalar.count.saturating_mul(times));
        }
    }

    fn elements(&self, width: u64, input: u64) -> u64 {
        let containers =
            |elements: u64| elements.saturating_mul(self.bits).div_ceil(self.container.bytes() * 8);
        match self.packed {
            Axis::Input => containers(input).saturating_mul(width),
            Axis::Output => containers(width).saturating_mul(input),
        }
    }
}

impl Matrix {
    fn scales(&self, grain: Grain) -> u64 {
        match grain {
            Grain::Part => self.parts,
            Grain::Output => self.width,
            Grain::Group(group) => self.width.saturating_mul(self.input / group.max(1)),
            Grain::Block(rows, columns) => {
                let (rows, columns) = (rows.max(1), columns.max(1));
                let down = match self.blocks_by_part {
                    true => (self.width / self.parts.max(1)).div_ceil(rows) * self.parts,
                    false => self.width.div_ceil(rows),
                };
                down.saturating_mul(self.input.div_ceil(columns))
            }
        }
    }
}
