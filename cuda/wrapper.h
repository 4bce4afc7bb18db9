/* What bindgen reads (`cargo xtask bindings`). cupti.h brings in cuda.h and the parameter blocks
 * that driver callbacks are handed; including those again would define them twice. */
#include <cupti.h>
