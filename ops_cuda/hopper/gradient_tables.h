// The schedule of a way to do the problem: the tables that its blocks read.
#pragma once
#include "ops_cuda/hopper/gradient_cost.h"

namespace cks::cuda::hopper::gradient {

GradientSchedule make_tables(const Problem&, const GradientOperands&, const GradientMachine&, Candidate);

}  // namespace cks::cuda::hopper::gradient
