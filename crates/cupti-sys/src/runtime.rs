//! The runtime functions whose calls are recorded so that what they launch can be told whose it is.
//!
//! A program on the runtime API reaches the driver by doors of its own: whether a driver call is
//! recorded there too is not documented, so both are asked for.

macro_rules! runtime_functions {
    ($($konst:ident = $id:literal, $function:ident;)*) => {
        /// Callback ids of runtime functions, in the domain [`crate::domain::RUNTIME_API`].
        pub mod runtime_cbid {
            $(
                #[doc = concat!("Callback id of `", stringify!($function), "`.")]
                pub const $konst: u32 = $id;
            )*

            /// Every id with the function's name as CUPTI's headers have it: the C name and the
            /// version that brought it.
            pub const ALL: &[(&str, u32)] = &[$((stringify!($function), $id)),*];

            /// The function's C name without the version, or `None` for an id that is not here.
            #[must_use]
            pub fn name(id: u32) -> Option<&'static str> {
                let (name, _) = ALL.iter().find(|(_, known)| *known == id)?;
                name.rsplit_once("_v").map(|(name, _)| name)
            }
        }
    };
}

runtime_functions! {
    MEMCPY = 31, cudaMemcpy_v3020;
    MEMCPY_ASYNC = 41, cudaMemcpyAsync_v3020;
    MEMCPY_2D_ASYNC = 44, cudaMemcpy2DAsync_v3020;
    MEMSET = 49, cudaMemset_v3020;
    MEMSET_ASYNC = 51, cudaMemsetAsync_v3020;
    MEMCPY_PEER_ASYNC = 161, cudaMemcpyPeerAsync_v4000;
    LAUNCH_KERNEL = 211, cudaLaunchKernel_v7000;
    LAUNCH_KERNEL_PTSZ = 214, cudaLaunchKernel_ptsz_v7000;
    MEMCPY_PTDS = 215, cudaMemcpy_ptds_v7000;
    MEMCPY_ASYNC_PTSZ = 225, cudaMemcpyAsync_ptsz_v7000;
    MEMCPY_2D_ASYNC_PTSZ = 228, cudaMemcpy2DAsync_ptsz_v7000;
    MEMSET_PTDS = 233, cudaMemset_ptds_v7000;
    MEMSET_ASYNC_PTSZ = 235, cudaMemsetAsync_ptsz_v7000;
    LAUNCH_COOPERATIVE_KERNEL = 269, cudaLaunchCooperativeKernel_v9000;
    LAUNCH_COOPERATIVE_KERNEL_PTSZ = 270, cudaLaunchCooperativeKernel_ptsz_v9000;
    GRAPH_LAUNCH = 311, cudaGraphLaunch_v10000;
    GRAPH_LAUNCH_PTSZ = 312, cudaGraphLaunch_ptsz_v10000;
    LAUNCH_KERNEL_EXC = 430, cudaLaunchKernelExC_v11060;
    LAUNCH_KERNEL_EXC_PTSZ = 431, cudaLaunchKernelExC_ptsz_v11060;
    // What the launch syntax of nvcc 13 calls.
    LAUNCH_KERNEL_INTERNAL = 505, __cudaLaunchKernel_v13000;
    LAUNCH_KERNEL_INTERNAL_PTSZ = 506, __cudaLaunchKernel_ptsz_v13000;
}
